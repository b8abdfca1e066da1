# What control.sh and node.sh share.

# Network addresses inside the cluster: of pods, a /24 a node, and of services.
pods=10.244.0.0/16
services=10.96.0.0/16
pods_of_node() { echo "10.244.$1.0/24"; }

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Who started processes and when they end: `wait -n` forgets one that ended before it was called.
mkfifo "/run/ended.$$"
exec 3<>"/run/ended.$$"
rm "/run/ended.$$"

# start COMMAND…: in the background.
start() {
    {
        local code=0
        "$@" 3>&- || code=$?
        echo "${1##*/} ended ($code)" >&3
    } &
}

# Fails as soon as a process that was started has ended.
fail_when_one_ended() {
    local ended
    read -r ended <&3
    fail "$ended"
}

# wait_until SECONDS WHAT COMMAND…: asks until the command succeeds; fails when it didn't in time, or when a process has ended.
wait_until() {
    local limit=$1 what=$2 started=$SECONDS
    shift 2
    until "$@" >/dev/null 2>&1; do
        ! read -r -t 0 -u 3 || fail_when_one_ended
        ((SECONDS - started < limit)) || fail "$what: not within $limit s"
        sleep 0.1
    done
}
