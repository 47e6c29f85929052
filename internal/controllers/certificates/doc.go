// Package certificates approves and signs the certificates of nodes.
//
//	CertificateSigningRequest -> may its user? is it well formed? is the name free?
//	    -> Approved, or Denied with the reason -> the authority signs -> status.certificate
//
// In: watches of CertificateSigningRequests; Nodes and the API's endpoints, read when a
// request comes; the cluster's authority. Out: conditions and certificates of requests
// for two signers, kubernetes.io/kube-apiserver-client-kubelet and
// kubernetes.io/kubelet-serving; old ones of these are deleted. Requests for other
// signers it leaves alone.
//
// What a person approves with `kubectl certificate approve` is signed too, if it is
// well formed: nobody gets more than a node's identity from here.
package certificates
