// Package translations keeps kubectl's translations from being read at the start of programs
// that don't run kubectl: kubectl's packages look their first texts up while they are
// initialized, which unpacks the catalogue of the whole language, a fifth of such a start.
//
// It must be initialized before them. Go does that in the order of import paths among the
// packages whose own imports are ready (go.dev/ref/spec, Program initialization), and this
// one imports nearly nothing.
package translations

import (
	"os"

	"k8s.io/kubectl/pkg/util/i18n"
)

// init is the only place that comes before kubectl's own, see SetLoadTranslationsFunc.
func init() { _ = i18n.SetLoadTranslationsFunc(load) } // an error says that they are loaded: only time is lost

// asked is whether kubectl asked for the translations here.
var asked bool

func load() error {
	asked = true
	if len(os.Args) > 1 && os.Args[1] == "kubectl" {
		return i18n.LoadTranslations("kubectl", nil)
	}
	return nil
}

// InTime says whether this package came before those that need it.
func InTime() bool { return asked }
