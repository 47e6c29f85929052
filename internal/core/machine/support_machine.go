package machine

// MachineRules says what becomes of the fields of VirtualMachineSpec. Those of
// its template's spec are InstanceRules.
func MachineRules() []Rule {
	return []Rule{
		{Field: "running", Verdict: Honoured, Note: "deprecated in KubeVirt in favour of runStrategy: true is Always, false is Halted"},
		{Field: "runStrategy", Verdict: Honoured, Note: "Always, Halted, Manual, RerunOnFailure and Once; WaitAsReceiver is refused"},
		{Field: "instancetype", Verdict: Refused, Note: "instance types don't exist here; write CPU and memory into the template"},
		{Field: "preference", Verdict: Refused, Note: "preferences don't exist here; write the devices into the template"},
		{Field: "template.metadata.labels", Verdict: Honoured, Note: "reach the instance and its pod at the next start"},
		{Field: "template.metadata.annotations", Verdict: Honoured, Note: "reach the instance at the next start"},
		{Field: "template.metadata.name", Verdict: Warned, Note: "the instance is named as its VirtualMachine"},
		{Field: "template.metadata.namespace", Verdict: Warned, Note: "the instance lives in its VirtualMachine's namespace"},
		{Field: "template.metadata.generateName", Verdict: Warned, Note: "the instance is named as its VirtualMachine"},
		{Field: "template.metadata.creationTimestamp", Verdict: Warned, Note: "the server sets it"},
		{Field: "template.metadata.selfLink", Verdict: Warned, Note: "the server sets it"},
		{Field: "template.metadata.uid", Verdict: Warned, Note: "the server sets it"},
		{Field: "template.metadata.resourceVersion", Verdict: Warned, Note: "the server sets it"},
		{Field: "template.metadata.generation", Verdict: Warned, Note: "the server sets it"},
		{Field: "template.metadata.deletionTimestamp", Verdict: Warned, Note: "the server sets it"},
		{Field: "template.metadata.deletionGracePeriodSeconds", Verdict: Warned, Note: "the server sets it"},
		{Field: "template.metadata.managedFields", Verdict: Warned, Note: "the server sets it"},
		{Field: "template.metadata.ownerReferences", Verdict: Refused, Note: "the instance is owned by its VirtualMachine alone"},
		{Field: "template.metadata.finalizers", Verdict: Refused, Note: "an instance would never go away; put finalizers on the VirtualMachine"},
		{Field: "template.spec", Verdict: Honoured, Note: "see the second table"},
		{Field: "dataVolumeTemplates", Verdict: Refused, Note: "DataVolumes don't exist here; put the image on the node and name it by a hostDisk volume"},
		{Field: "updateVolumesStrategy", Verdict: Refused, Values: []string{"Replacement"}, Note: "volumes are replaced at the next start; only Replacement is honoured"},
	}
}
