# The first process of a cluster: loopback, the pods' bridge with the API's service address, DNS, then the supervisor.
set -e
bridge="$1" gateway="$2" service="$3" resolv="$4"
shift 4
ip link set lo up
# With an address of its own: else it has that of one of its pods, and when that pod ends, the others go on sending to it
# what is for the API, for half a minute.
ip link add "$bridge" address 0a:58:0a:58:00:01 type bridge
ip addr add "$gateway/16" dev "$bridge"
ip addr add "$service/32" dev "$bridge"
ip link set "$bridge" up
mount --bind "$resolv" /etc/resolv.conf
exec "$@"
