package e2e

import "strings"

const namespaceManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: ` + namespace + `}
`

const service = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ` + namespace + `}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports:
  - {port: 80, targetPort: http, nodePort: 30000}
`

// machine is a VirtualMachine whose guest answers on the port http.
func machine(name, strategy, app string) string {
	return strings.NewReplacer("NAME", name, "STRATEGY", strategy, "APP", app).Replace(`
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: NAME, namespace: ` + namespace + `}
spec:
  runStrategy: STRATEGY
  template:
    metadata:
      labels: {app: APP}
    spec:
      domain:
        cpu: {cores: 1}
        memory: {guest: 128Mi}
        firmware:
          kernelBoot:
            container: {image: "portico.local/guest:latest", kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}
            kernelArgs: >-
              console=ttyS0 quiet nokaslr mitigations=off no_timer_check tsc=reliable cryptomgr.notests
              8250.nr_uarts=1 audit=0 apparmor=0 rcupdate.rcu_expedited=1
        devices:
          interfaces:
          - {name: default, bridge: {}, ports: [{name: http, port: 9376}]}
      networks:
      - {name: default, pod: {}}
      terminationGracePeriodSeconds: 10
      readinessProbe: {httpGet: {path: /, port: 9376}, periodSeconds: 1, timeoutSeconds: 2}
---
`)
}
