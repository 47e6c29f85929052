package apiserver

import (
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/component-base/compatibility"
)

// servedVersion is what /version answers. The library would answer with what the
// linker was told, and without that with a word that no client can parse as a
// version: kubectl and operators that ask for the server's version would fail.
type servedVersion struct{ compatibility.EffectiveVersion }

func newServedVersion() servedVersion {
	return servedVersion{compatibility.NewEffectiveVersionFromString(kubernetesVersion, "", "")}
}

func (v servedVersion) Info() *version.Info {
	info := v.EffectiveVersion.Info()
	info.GitVersion = "v" + kubernetesVersion
	return info
}
