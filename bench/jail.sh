# Runs a peer in mount, network, pid and cgroup namespaces of its own, so that killing it removes all that it made.
# usage: sh jail.sh outer GROUP keep|drop COMMAND...
# GROUP: the cgroup that the jail sees as its root. drop: without the v2 tree of a hybrid host, where crun refuses it.
set -eu
script=$0
stage=$1
shift

# Prints "mountpoint type options" of every cgroup hierarchy.
hierarchies() {
  sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .* - \(cgroup2\{0,1\}\) [^ ]* \(.*\)$/\1 \2 \3/p' /proc/self/mountinfo
}

case $stage in
outer)
  exec setpriv --pdeathsig KILL unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
    sh "$script" join "$@"
  ;;
join)
  group=$1
  shift
  hierarchies | while read -r at _; do
    mkdir -p "$at/$group"
    for file in cpuset.cpus cpuset.mems; do
      if [ -e "$at/$group/$file" ]; then cat "$at/$file" >"$at/$group/$file"; fi
    done
    echo $$ >"$at/$group/cgroup.procs"
  done
  exec unshare --cgroup sh "$script" inner "$@"
  ;;
inner)
  v2=$1
  shift
  hierarchies | while read -r at type options; do
    umount "$at"
    if [ "$at" = /sys/fs/cgroup/unified ] && [ "$v2" = drop ]; then continue; fi
    mount -t "$type" -o "$options" cgroup "$at"
    if [ "$at" = /sys/fs/cgroup ]; then
      # Controllers reach only the children of a group that has no process of its own.
      mkdir "$at/server"
      echo $$ >"$at/server/cgroup.procs"
      sed 's/[^ ]*/+&/g' "$at/cgroup.controllers" >"$at/cgroup.subtree_control"
    fi
  done
  mount -t tmpfs -o mode=755 run /run
  ip link set lo up
  exec tini -s -- "$@"
  ;;
esac
