#!/usr/bin/env bash
# The control plane: etcd, API server, controller manager, scheduler and name server, each a process of this container. When one ends,
# all end. `control.sh NODES ADDRESS`; what nodes need to join is written to /shared.
set -euo pipefail
. /cluster/lib.sh

nodes=$1
address=$2
rm -f /run/up
mkdir -p /pki
cd /pki

new_key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

# certificate NAME SUBJECT [ALTERNATIVE_NAMES]: NAME.key and NAME.crt.
certificate() {
    new_key "$1.key"
    openssl req -new -key "$1.key" -subj "$2" |
        openssl x509 -req -CA ca.crt -CAkey ca.key -days 3650 -out "$1.crt" -extfile <(
            echo "extendedKeyUsage=serverAuth,clientAuth"
            [[ -z ${3:-} ]] || echo "subjectAltName=$3"
        )
}

# kubeconfig NAME SUBJECT FILE: a client's certificate with the address, in one file.
kubeconfig() {
    certificate "$1" "$2"
    cat >"$3" <<CONFIG
apiVersion: v1
kind: Config
current-context: agora
contexts: [{name: agora, context: {cluster: agora, user: $1}}]
clusters: [{name: agora, cluster: {server: "https://$address:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
CONFIG
    chmod 600 "$3"
}

# A container that is started again keeps its keys: nodes and users have them.
if [[ ! -e ready ]]; then
    rm -rf /shared/*
    new_key ca.key
    openssl req -x509 -new -key ca.key -days 3650 -subj /CN=agora-cluster -out ca.crt
    new_key accounts.key
    openssl pkey -in accounts.key -pubout -out accounts.pub
    certificate apiserver /CN=kube-apiserver \
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$address"
    certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
    kubeconfig admin /O=system:masters/CN=admin admin.kubeconfig
    kubeconfig controller-manager /CN=system:kube-controller-manager controller-manager.kubeconfig
    kubeconfig scheduler /CN=system:kube-scheduler scheduler.kubeconfig
    kubeconfig dns /CN=system:dns dns.kubeconfig
    for node in $(seq "$nodes"); do
        folder=/shared/node$node
        mkdir -p "$folder"
        kubeconfig proxy /CN=system:kube-proxy "$folder/proxy.kubeconfig"
        kubeconfig "node$node" "/O=system:nodes/CN=system:node:node$node" "$folder/kubelet.kubeconfig"
        certificate "serving$node" "/O=system:nodes/CN=system:node:node$node" "DNS:node$node"
        cp ca.crt "$folder/"
        mv "serving$node.crt" "$folder/serving.crt"
        mv "serving$node.key" "$folder/serving.key"
        touch "$folder/ready"
    done
    touch ready
fi

start etcd --data-dir /var/lib/etcd --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
start kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address="$address" --secure-port=6443 \
    --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key --client-ca-file=ca.crt \
    --kubelet-certificate-authority=ca.crt --kubelet-client-certificate=kubelet-client.crt \
    --kubelet-client-key=kubelet-client.key --kubelet-preferred-address-types=Hostname \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --service-cluster-ip-range="$services" --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file=accounts.pub --service-account-signing-key-file=accounts.key
wait_until 60 "the API server is ready" kubectl --kubeconfig admin.kubeconfig get --raw /readyz
start kube-controller-manager --kubeconfig=controller-manager.kubeconfig --leader-elect=false --bind-address=127.0.0.1 \
    --root-ca-file=ca.crt --service-account-private-key-file=accounts.key --use-service-account-credentials=true
start kube-scheduler --kubeconfig=scheduler.kubeconfig --leader-elect=false --bind-address=127.0.0.1
kubectl --kubeconfig admin.kubeconfig apply --filename /cluster/cluster.yaml
for node in $(seq "$nodes"); do
    for volume in 1 2; do
        sed "s/NODE/$node/g; s/VOLUME/$volume/g" <<'VOLUME'
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: node-NODE-VOLUME}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: standard
  local: {path: /var/lib/agora/VOLUME}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [nodeNODE]}]
VOLUME
    done
done | kubectl --kubeconfig admin.kubeconfig apply --filename -
start coredns -conf /cluster/Corefile
touch /run/up
fail_when_one_ended
