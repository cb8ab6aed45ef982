# The first process of a cluster: loopback, the pods' bridge with the API's service address, DNS, then the supervisor.
set -e
bridge="$1" gateway="$2" service="$3" resolv="$4"
shift 4
ip link set lo up
ip link add "$bridge" type bridge
ip addr add "$gateway/16" dev "$bridge"
ip addr add "$service/32" dev "$bridge"
ip link set "$bridge" up
mount --bind "$resolv" /etc/resolv.conf
exec "$@"
