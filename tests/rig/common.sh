# What the server scripts of this folder share. Sourced, never run.
#
# A script defines `server` (its name) and these functions, and ends with `rig_main "$@"`:
#
#   install       fetch what the server needs; does nothing when it is there
#   prepare       called once per instance: choose ports, write configuration, create data
#   command_line  put the server's command into the array `command`
#   ready         succeed as soon as the server answers
#   address       print its addresses as key=value lines
#
# An instance lives in $state/<server>/<name>/: `address`, `settings`, `pid`, `log` and the server's own
# files. It keeps its ports for life, so that a killed server comes back where its clients look for it.

set -euo pipefail

rig=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$rig/../.." && pwd)
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
# Tests built elsewhere, on servers that are already up, use the jars that those came from.
jars=${SLUICE_TEST_JARS:-$target/rig/jars}

# Where the servers of `tests/run --up` keep their state. Server users other than root cannot enter a
# checkout below a private home folder; then the state moves to /var/tmp.
state_home() {
  local home=$target/rig
  mkdir -p "$home"
  if [[ $EUID -eq 0 ]] && ! as nobody test -x "$home"; then
    home=/var/tmp/sluice-rig-$(cksum <<<"$target" | cut -d' ' -f1)
    mkdir -p "$home"
  fi
  echo "$home"
}

say() { printf '%s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# The servers refuse to be root. Puts into the array `prefix` what makes root run a command as that user;
# nothing when we are not root. setpriv, unlike su and runuser, replaces itself by the command, so that
# the pid is the server's.
run_as() {
  prefix=()
  [[ $EUID -ne 0 ]] || prefix=(setpriv --reuid="$1" --regid="$(id -g "$1")" --clear-groups)
}

as() {
  local prefix
  run_as "$1"
  shift
  "${prefix[@]}" "$@"
}

# Installs the Debian packages that are missing. A package that brings a server would start it: the
# policy file forbids that while we install, unless the machine has one of its own.
need_packages() {
  local missing=() package policy=/usr/sbin/policy-rc.d wrote_policy='' sudo=()
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $EUID -ne 0 ]]; then
    sudo -n true 2>/dev/null || die "missing packages: ${missing[*]}; install them, or let this user run sudo"
    sudo=(sudo -n)
  fi
  say "installing ${missing[*]}"
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod 755 "$policy"
    wrote_policy=yes
  fi
  local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  local status=0
  { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } \
    >"$target/rig/apt.log" 2>&1 || status=$?
  [[ -z $wrote_policy ]] || "${sudo[@]}" rm -f "$policy"
  [[ $status -eq 0 ]] || { tail -n 20 "$target/rig/apt.log" >&2; die "apt-get failed"; }
}

# Copies the dependencies that a pom names into $jars/<name>, again whenever the pom changes.
# Usage: need_jars <name> <pom>; leaves a mark that the caller may extend with `mark_jars`.
have_jars() { [[ $(cat "$jars/$1/.complete" 2>/dev/null) == "$(cat "${@:2}" | cksum)" ]]; }
mark_jars() { cat "${@:2}" | cksum >"$jars/$1/.complete"; }

copy_jars() {
  local name=$1 pom=$2
  say "fetching the jars of $name"
  rm -rf "${jars:?}/$name"
  mkdir -p "$jars/$name"
  maven -f "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars/$name"
}

# A registry may refuse now and then; one more try is cheaper than a failed run.
maven() {
  local log=$jars/maven-${FUNCNAME[1]}-$BASHPID.log try
  for try in 1 2 3; do
    if mvn -q -B "$@" >"$log" 2>&1; then
      rm -f "$log"
      return 0
    fi
    say "maven failed (try $try)"
  done
  tail -n 30 "$log" >&2
  die "maven failed: $*"
}

# Reserves n free ports for this instance and prints them. They lie below the range from which the
# kernel takes the ports of outgoing connections: a client that keeps connecting to a killed server
# must not be given that very port as its own, which would keep the server from coming back.
reserve_ports() {
  local count=$1 port
  mkdir -p "$state/ports"
  while [[ $count -gt 0 ]]; do
    port=$((12000 + RANDOM % 18000))
    perl -MIO::Socket::INET -e \
      'exit !IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => shift, Listen => 1)' "$port" || continue
    (set -o noclobber && echo "$dir" >"$state/ports/$port") 2>/dev/null || continue
    echo "$port"
    count=$((count - 1))
  done
}

# The value of a setting given as KEY=VALUE to `start`, or the default.
setting() {
  local value
  value=$(sed -n "s/^$1=//p" "$dir/settings" | tail -n 1)
  echo "${value:-${2-}}"
}

# The settings that are not ours to interpret, for the server's own configuration file.
# Usage: other_settings <separator> <our keys…>
other_settings() {
  local separator=$1 key value
  shift
  while IFS='=' read -r key value; do
    [[ " $* " == *" $key "* ]] || printf '%s%s%s\n' "$key" "$separator" "$value"
  done <"$dir/settings"
}

# Starts no process of its own: a PostgreSQL has a hundred, and each is asked about. One line is read at once; of
# several, one could be missed when the process's name, which stands before, changes with an exec in between.
alive() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  stat=${stat##*) }
  [[ ${stat:0:1} != [ZX] ]]
}

# A stale file of an earlier boot may name a stranger's pid, hence the look at the command line.
running() {
  local supervisor
  supervisor=$(cat "$dir/supervisor" 2>/dev/null) || return 1
  alive "$supervisor" && grep -qzxF -- "$dir" "/proc/$supervisor/cmdline" 2>/dev/null && [[ -s $dir/pid ]]
}

# A process and all that it started, parents first; from one look at all processes.
tree() {
  { grep -hsE '^P?Pid:' /proc/[0-9]*/status || true; } | awk -v root="$1" '
    function walk(pid, of, i, n) {
      print pid
      n = split(children[pid], of, " ")
      for (i = 1; i <= n; i++) walk(of[i])
    }
    $1 == "Pid:" { pid = $2 }
    $1 == "PPid:" { children[$2] = children[$2] " " pid }
    END { walk(root) }'
}

wait_gone() {
  local pid limit=$((SECONDS + $1))
  shift
  for pid in "$@"; do
    while alive "$pid"; do
      [[ $SECONDS -lt $limit ]] || return 1
      sleep 0.05
    done
  done
}

do_start() {
  if running; then
    cat "$dir/address"
    return
  fi
  # A server's user may not be able to enter the folder that we were called in.
  cd /
  if [[ ! -e $dir/prepared ]]; then
    mkdir -p "$dir"
    printf '%s\n' "$@" | sed '/^$/d' >"$dir/settings"
    prepare
    touch "$dir/prepared"
  elif [[ $# -gt 0 ]]; then
    die "$server $name exists; settings are given at its first start"
  fi
  local command=() limit=$((SECONDS + ${SLUICE_RIG_LIMIT:-180}))
  command_line
  rm -f "$dir/pid"
  setsid "$rig/supervise" "$dir" "${SLUICE_RIG_OWNER:-}" "${command[@]}" </dev/null >>"$dir/log" 2>&1 &
  local supervisor=$!
  echo $supervisor >"$dir/supervisor"
  until [[ -s $dir/pid ]] && ready; do
    if ! alive "$supervisor"; then
      tail -n 40 "$dir/log" >&2 || true
      die "$server $name ended while starting; its log: $dir/log"
    fi
    [[ $SECONDS -lt $limit ]] || die "$server $name is not ready; its log: $dir/log"
    sleep 0.1
  done
  address >"$dir/address"
  cat "$dir/address"
}

# Ends the server with its own polite signal and, when that does not help, by force.
do_stop() {
  running || return 0
  local supervisor members
  supervisor=$(cat "$dir/supervisor")
  mapfile -t members < <(tree "$(main_pid)")
  kill -CONT "${members[@]}" 2>/dev/null || true
  kill -"${stop_signal:-TERM}" "$(main_pid)" 2>/dev/null || true
  wait_gone 30 "$supervisor" "${members[@]}" || do_kill
}

# What a power failure does to the server: all its processes end at once, none of them says goodbye.
do_kill() {
  running || return 0
  local supervisor members
  supervisor=$(cat "$dir/supervisor")
  mapfile -t members < <(tree "$(main_pid)")
  kill -KILL "${members[@]}" 2>/dev/null || true
  wait_gone 30 "$supervisor" "${members[@]}" || die "$server $name does not die"
}

# Most servers are the process that the supervisor started; RabbitMQ's is a child of its script.
main_pid() { cat "$dir/pid"; }

do_signal() {
  local members
  running || die "$server $name is not running"
  mapfile -t members < <(tree "$(main_pid)")
  kill -"$1" "${members[@]}" 2>/dev/null || true
}

do_remove() {
  do_kill
  if declare -F cleanup >/dev/null; then cleanup; fi
  grep -lxF -- "$dir" "$state"/ports/* 2>/dev/null | xargs -r rm -f
  rm -rf "$dir"
}

rig_main() {
  local verb=${1-}
  name=${2:-main}
  state=${SLUICE_TEST_RIG:-$(state_home)/up}
  dir=$state/$server/$name
  shift $(($# < 2 ? $# : 2))
  case $verb in
    install) install ;;
    start) do_start "$@" ;;
    stop) do_stop ;;
    kill)
      if declare -F before_kill >/dev/null && running; then before_kill; fi
      do_kill
      ;;
    restart)
      do_stop
      do_start
      ;;
    freeze) do_signal STOP ;;
    thaw) do_signal CONT ;;
    status) running ;;
    address) cat "$dir/address" ;;
    remove) do_remove ;;
    *) die "usage: ${0##*/} install | start|stop|kill|restart|freeze|thaw|status|address|remove [NAME] [KEY=VALUE…]" ;;
  esac
}
