#!/usr/bin/env bash
# A node: containerd, kube-proxy and kubelet. `node.sh NUMBER ADDRESS_OF_CONTROL ADDRESS_OF_NODE…`. When one process ends, all end.
set -euo pipefail
. /cluster/lib.sh

number=$1
control=$2
shift 2
addresses=("$@")
own=${addresses[number - 1]}
shared=/shared/node$number

# Kubelet and containerd write to /sys and to control groups, which Docker mounts read-only.
mount -o remount,rw /sys || true
for folder in /sys/fs/cgroup/* /sys/fs/cgroup; do
    ! mountpoint --quiet "$folder" || mount -o remount,bind,rw "$folder" || true
done
if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    # A group with processes can't hand its controllers on.
    mkdir -p /sys/fs/cgroup/init
    xargs -rn1 </sys/fs/cgroup/cgroup.procs >/sys/fs/cgroup/init/cgroup.procs || true
    sed 's/ / +/g; s/^/+/' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
    mkdir -p /sys/fs/cgroup/memory/agora && rmdir /sys/fs/cgroup/memory/agora || fail "control groups are read-only"
fi
echo 1 >/proc/sys/net/ipv4/ip_forward
mount --make-rshared /

# Pods have a bridge on each node; routes lead to those of the others.
mkdir -p /etc/cni/net.d /var/lib/agora/1 /var/lib/agora/2
cat >/etc/cni/net.d/10-agora.conflist <<NETWORK
{"cniVersion": "1.0.0", "name": "agora", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(pods_of_node "$number")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
NETWORK
for other in $(seq "${#addresses[@]}"); do
    if ((other != number)); then
        ip route replace "$(pods_of_node "$other")" via "${addresses[other - 1]}"
    fi
done

# Between pods an address is the pod's own; what leaves them has the node's.
iptables --table nat --append POSTROUTING --source "$pods" ! --destination "$pods" --jump MASQUERADE

start containerd --config /cluster/containerd.toml --log-level warn
wait_until 30 "containerd answers" ctr version
ctr --namespace k8s.io images import /programs/pause.tar
wait_until 60 "the control plane gives this node its certificates" test -e "$shared/ready"
wait_until 60 "the API server answers" bash -c "exec 3<>/dev/tcp/$control/6443"

cat >/run/kubelet.yaml <<KUBELET
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $shared/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $shared/serving.crt
tlsPrivateKeyFile: $shared/serving.key
clusterDNS: ["$control"]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
# The node's containers share the machine with everything else on it.
enforceNodeAllocatable: []
evictionHard: {memory.available: 100Mi, nodefs.available: 2%, imagefs.available: 2%}
imageGCHighThresholdPercent: 100
KUBELET
start kube-proxy --kubeconfig="$shared/proxy.kubeconfig" --proxy-mode=iptables --hostname-override="node$number" --cluster-cidr="$pods" \
    --conntrack-max-per-core=0
start kubelet --kubeconfig="$shared/kubelet.kubeconfig" --config=/run/kubelet.yaml --hostname-override="node$number" --node-ip="$own"
fail_when_one_ended
