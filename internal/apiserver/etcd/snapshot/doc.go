// Package snapshot writes and reads the files of `portico snapshot`.
//
// In: a database as etcd holds it, and the keys of the data directory. Out: one file,
// and from it a data directory with which a server goes on. It never touches a store
// that runs, nor a folder that holds one.
//
// The file is a tar archive, so that a person can look into it:
//
//	portico-snapshot.json   Meta
//	pki/...                 the authority and the key of tokens: who knew the API before
//	                        must know it afterwards
//	etcd.db                 the database and 32 bytes SHA-256, as etcdctl saves it, so
//	                        that etcdutl can restore it elsewhere
//	SHA256SUMS              of the files before it; a file that was cut off lacks it
package snapshot
