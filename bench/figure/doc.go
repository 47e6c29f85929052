// Package figure makes figures of measurements and writes them to a file.
package figure
