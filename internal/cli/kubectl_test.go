package cli

import (
	"testing"

	"portico.dev/portico/internal/cli/translations"
)

func TestTranslationsAreLeftToKubectl(t *testing.T) {
	if !translations.InTime() {
		t.Error("kubectl's translations were loaded at the start of a program that doesn't run kubectl")
	}
}
