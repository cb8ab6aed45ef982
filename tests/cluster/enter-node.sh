# The first process of a node: /var/lib, /var/log and /run are the node's own, then the supervisor takes over.
set -e
node="$1"
shift
mount --bind "$node/lib" /var/lib
mount --bind "$node/log" /var/log
mount --bind "$node/run" /run
exec "$@"
