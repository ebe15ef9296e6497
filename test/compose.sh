#!/usr/bin/env bash
# docker-compose.yml on a real Docker engine: builds the image, starts the nodes, publishes through each published port, kills, restarts and
# stops containers, takes all down and up again, and finds every message; then the same cluster under chaos.
#
#   test/compose.sh            needs `npm ci` and `npx tsc -b` before it; some three minutes
#
# An engine that answers is used. Else, for root, the installed `dockerd` is started in a folder of its own, without any rule or bridge for the
# machine; what it has not is made from this machine's own files, since images cannot be pulled everywhere: Node.js, npm and a shell as the
# Dockerfile's base, a `toxiproxy-server` and a `prometheus`. Installs nothing. Where no engine can run it says `compose: skipped: <why>`, and ends with 0.
# Everything has a name or a port of its own, and is removed at the end, whatever happens: containers, volumes, networks, images, the engine.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

say() { echo "compose: $*"; }
skip() { verdict="skipped: $*" && exit 0; }
work=$(mktemp -d) || exit 1
engine_pid=''
compose=()
made=()
verdict=''
started=$SECONDS
# A file .env of the user's is for the user's cluster.
: >"$work/none.env"
run() { "${compose[@]}" --env-file "$work/none.env" "$@"; }

# What a user has set for the nodes must not reach these.
for name in "${!WARREN_@}" "${!COMPOSE_@}"; do [ "$name" = WARREN_TEST_CACHE ] || unset "$name"; done
export COMPOSE_PROJECT_NAME=warren-compose-test NODE_IMAGE=warren:compose-test
base=node:22-slim
builder=$base
prometheus=$(sed -n 's/.*image: \(.*prometheus:.*\)/\1/p' docker-compose.yml)
toxiproxy=$(sed -n 's/.*image: \(.*toxiproxy:.*\)/\1/p' docker-compose.yml)
cache=${WARREN_TEST_CACHE:-$HOME/.cache/warren-interop}

# ---- the end

finish() {
  local code=$?
  trap - EXIT INT TERM
  if [ ${#compose[@]} -gt 0 ]; then
    [ $code -eq 0 ] || run logs --tail=30 2>&1 | tail -n 150
    run --profile chaos --profile monitoring down -v --remove-orphans >"$work/down.log" 2>&1 || cat "$work/down.log"
    docker image rm "$NODE_IMAGE" "${made[@]}" >/dev/null 2>&1
  fi
  if [ -n "$engine_pid" ]; then
    kill "$engine_pid" 2>/dev/null
    wait "$engine_pid" 2>/dev/null
    umount "$work/run/netns/default" 2>/dev/null
  fi
  rm -rf "$work"
  if [ $code -ne 0 ]; then verdict="FAILED, exit code $code"; fi
  say "${verdict:-passed, in $((SECONDS - started)) s}"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM
fail() { say "FAILED: $*" && exit 1; }
# must WHAT COMMAND...: shows what the command says if it fails.
must() {
  local what=$1
  shift
  "$@" >"$work/step.log" 2>&1 || { tail -n 40 "$work/step.log" && fail "$what"; }
}

# ---- the engine

start_engine() {
  local storage
  export DOCKER_HOST="unix://$work/docker.sock"
  for storage in '' --storage-driver=vfs; do
    # Published ports and names work without any of these; only the way out of a container does not, and none is needed.
    # In a session of its own, or a Ctrl-C would end it before its containers are gone.
    setsid dockerd --host "$DOCKER_HOST" --data-root "$work/engine" --exec-root "$work/run" --pidfile "$work/docker.pid" \
      --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false $storage >"$work/dockerd.log" 2>&1 </dev/null &
    engine_pid=$!
    for _ in $(seq 100); do
      docker info >/dev/null 2>&1 && return
      kill -0 "$engine_pid" 2>/dev/null || break
      sleep 0.2
    done
    kill "$engine_pid" 2>/dev/null
    wait "$engine_pid" 2>/dev/null
    engine_pid=''
  done
  skip "dockerd does not start here: $(grep -E 'level=(error|fatal)|failed' "$work/dockerd.log" | tail -n 1)"
}

[ -f dist/test/compose/messages.js ] || fail 'not compiled: run `npm ci && npx tsc -b` first'
command -v docker >/dev/null || skip 'there is no docker here'
if ! timeout 10 docker info >/dev/null 2>&1; then
  command -v dockerd >/dev/null || skip 'no Docker engine answers, and there is no dockerd here to start one'
  [ "$(id -u)" -eq 0 ] || skip 'no Docker engine answers, and only root can start one'
  start_engine
fi
if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif docker-compose version >/dev/null 2>&1; then
  compose=(docker-compose)
else
  skip 'there is neither `docker compose` nor `docker-compose` here'
fi
say "engine $(docker version --format '{{.Server.Version}}')$([ -n "$engine_pid" ] && echo ', started here'), ${compose[*]} $("${compose[@]}" version --short)"

# ---- images that cannot be pulled

# copy FOLDER FILE...: programs, with the libraries that they load.
copy() {
  local to=$1 program file
  shift
  for program in "$@"; do
    for file in "$program" $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
      mkdir -p "$to$(dirname "$file")" && cp -nL "$file" "$to$file" || return
    done
  done
}

# What the Dockerfile uses of its base. npm needs the certificates that it needs here, while it builds; the result has none of them.
make_base() {
  local tree="$work/base" node npm registry
  node=$(readlink -f "$(command -v node)")
  npm=$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")
  mkdir -p "$tree"/{etc,root,tmp,usr/local/bin,usr/local/lib,home/node} && chmod 1777 "$tree/tmp" && chown 1000:1000 "$tree/home/node"
  copy "$tree" "$node" /bin/sh /usr/bin/env /bin/{chmod,chown,ln,mkdir}
  [ -e "$tree/usr/bin/node" ] || ln -s "$node" "$tree/usr/local/bin/node"
  printf 'root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n' >"$tree/etc/passwd"
  printf 'root:x:0:\nnode:x:1000:\n' >"$tree/etc/group"
  base=warren-compose-test:base
  tar -C "$tree" -c . | docker import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - "$base"
  cp -r "$npm" "$tree/usr/local/lib/npm"
  for program in npm npx; do
    printf '#!/bin/sh\nexec node /usr/local/lib/npm/bin/%s-cli.js "$@"\n' $program >"$tree/usr/local/bin/$program"
    chmod +x "$tree/usr/local/bin/$program"
  done
  registry=$(cd / && npm config get registry)
  local changes=(--change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' --change "ENV npm_config_registry=$registry")
  if [ -n "${NODE_EXTRA_CA_CERTS:-}" ]; then
    cp "$NODE_EXTRA_CA_CERTS" "$tree/etc/certificates.pem" || return
    changes+=(--change 'ENV NODE_EXTRA_CA_CERTS=/etc/certificates.pem')
  fi
  builder=warren-compose-test:builder
  tar -C "$tree" -c . | docker import "${changes[@]}" - "$builder"
}

make_toxiproxy() {
  local program tree="$work/toxiproxy"
  program=$(command -v toxiproxy-server || find "$cache" -name toxiproxy-server -type f 2>/dev/null | head -n 1)
  [ -n "$program" ] || return
  mkdir -p "$tree" && copy "$tree" "$program" && mv "$tree$program" "$tree/toxiproxy" || return
  tar -C "$tree" -c . | docker import --change 'ENTRYPOINT ["/toxiproxy"]' - "$toxiproxy"
}

# Started as the image that the compose file names starts it.
make_prometheus() {
  local program tree="$work/prometheus"
  program=$(command -v prometheus) || return
  mkdir -p "$tree"/{prometheus,tmp,etc/prometheus} && copy "$tree" "$program" && mv "$tree$program" "$tree/prometheus-server" || return
  tar -C "$tree" -c . | docker import --change 'ENTRYPOINT ["/prometheus-server"]' \
    --change 'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]' - "$prometheus"
}

# has IMAGE: whether it is there, or can be pulled. An engine that was started here does not try.
has() {
  docker image inspect "$1" >/dev/null 2>&1 && return
  [ -z "$engine_pid" ] && timeout --foreground 300 docker pull --quiet "$1" >/dev/null 2>&1
}

if ! has "$base"; then
  say "$base cannot be had: built on this machine's own Node.js $(node --version)"
  made+=(warren-compose-test:base warren-compose-test:builder)
  must 'a base image' make_base
fi
at=$SECONDS
must 'the image' timeout --foreground 900 docker build --network host --build-arg BASE="$base" --build-arg BUILDER="$builder" \
  -f node/Dockerfile -t "$NODE_IMAGE" .
# The same from the compose file; all is done already.
must 'docker compose build' timeout --foreground 900 "${compose[@]}" --env-file "$work/none.env" build --build-arg BASE="$base" \
  --build-arg BUILDER="$builder" node1
bytes() { docker image inspect --format '{{.Size}}' "$1"; }
say "built in $((SECONDS - at)) s: $(($(bytes "$NODE_IMAGE") / 1000000)) MB, of which $((($(bytes "$NODE_IMAGE") - $(bytes "$base")) / 1000)) kB are Warren"
[ "$(docker image inspect --format '{{.Config.User}}' "$NODE_IMAGE")" = node ] || fail 'the image does not run as the user node'

# ---- what the tests say

# Free ports of this machine: AMQP and HTTP of each node, Toxiproxy and what it publishes, Prometheus, Grafana.
names=(NODE{1,2,3}_{AMQP,HTTP}_PORT TOXIPROXY_PORT CLIENT{1,2,3}_PORT PROMETHEUS_PORT GRAFANA_PORT)
mapfile -t ports < <(node -e '
  const servers = process.argv.slice(1).map(() => require("node:net").createServer().listen(0, "127.0.0.1"));
  setTimeout(() => { for (const server of servers) { console.log(server.address().port); server.close(); } }, 100);' "${names[@]}")
for i in "${!names[@]}"; do export "${names[i]}=${ports[i]}"; done

url() { local port="NODE$1_AMQP_PORT" && echo "amqp://guest:guest@127.0.0.1:${!port}"; }
publish() { node dist/test/compose/messages.js publish "$(url "$1")" orders "$2" "${3:-0}"; }
drain() { node dist/test/compose/messages.js drain "$(url "$1")" orders "${@:2}"; }
container() { docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --filter "label=com.docker.compose.service=$1"; }
milliseconds() { date +%s%3N; }

# healthy SECONDS: until the three nodes are, for so long at most.
healthy() {
  local deadline=$(($(milliseconds) + $1 * 1000))
  until [ "$(docker ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --filter health=healthy | wc -l)" -eq 3 ]; do
    [ "$(milliseconds)" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}

# within MILLISECONDS WHAT BOUND: promises of time are judged where others leave this machine the time for it.
within() {
  local load
  load=$(cut -d. -f1 /proc/loadavg)
  say "$2: $1 ms"
  [ "$1" -lt "$3" ] && return
  [ "$load" -gt $((2 * $(nproc))) ] || fail "$2 takes more than $3 ms"
  say "$2 takes more than $3 ms, which is not judged at a load of $load"
}

# up WHAT COMMAND...: brings the cluster up, in the time that is promised.
up() {
  local at what=$1
  shift
  at=$(milliseconds)
  must "$what" "$@" up -d
  healthy 90 || { docker ps -a && fail "$what: not healthy after 90 s"; }
  within $(($(milliseconds) - at)) "$what, until healthy" 20000
}

# stops WHAT NODE COMMAND...: a clean stop of that node's process, in the time that is promised.
stops() {
  local at what=$1 node=$2
  shift 2
  at=$(milliseconds)
  must "$what" "$@"
  within $(($(milliseconds) - at)) "$what" 10000
  docker logs "$(container "$node")" 2>&1 | grep -q 'the node has stopped' || fail "$what: $node did not stop by itself"
}

# ---- the tests

up 'docker compose up' run
for node in 1 2 3; do must "publish through node $node" publish $node "first-$node:300"; done
for node in 1 2 3; do
  port="NODE${node}_HTTP_PORT"
  must "metrics of node $node" node -e 'fetch(process.argv[1]).then((r) => r.text()).then((t) => process.exit(/^warren_/m.test(t) ? 0 : 1))' \
    "http://127.0.0.1:${!port}/metrics"
done
must 'warren cluster status in a container' run exec -T node1 warren cluster status
publish 1 killed:800 5 >"$work/killed.log" 2>&1 &
publisher=$!
sleep 1
must 'kill of node 2' run kill node2
must 'drain while node 2 is dead' drain 3 first-1:300 first-2:300 first-3:300 killed:800
wait $publisher || { cat "$work/killed.log" && fail 'publish through node 1 while node 2 is killed'; }
must 'start of node 2' run start node2
healthy 90 || fail 'node 2 is not healthy 90 s after it was killed'
for node in 1 2 3; do must "publish through node $node" publish $node "second-$node:200"; done
say 'a killed container: nothing lost'

publish 1 restarted:800 5 >"$work/restarted.log" 2>&1 &
publisher=$!
sleep 1
stops 'docker compose restart node2' node2 run restart node2
wait $publisher || { cat "$work/restarted.log" && fail 'publish through node 1 while node 2 restarts'; }
healthy 90 || fail 'node 2 is not healthy 90 s after its restart'
stops 'docker compose stop node3' node3 run stop node3
[ "$(docker inspect --format '{{.State.ExitCode}}' "$(container node3)")" = 0 ] || fail 'node 3 did not end with exit code 0'
must 'publish while node 3 is stopped' publish 2 stopped:100

must 'docker compose down' run down
up 'docker compose up again' run
must 'drain after all containers were removed' drain 2 second-1:200 second-2:200 second-3:200 restarted:800 stopped:100
must 'drain once more' drain 1
say 'restart, stop, down and up: nothing lost, nothing back'

# ---- profiles

have_prometheus=true
if ! has "$prometheus"; then
  made+=("$prometheus")
  make_prometheus >/dev/null || have_prometheus=false
fi
must 'the configuration of the profile monitoring' run --profile monitoring config
if $have_prometheus; then
  # Grafana's image is made from nothing that a machine has; what its panels ask for is asked here.
  must 'docker compose --profile monitoring up prometheus' run --profile monitoring up -d prometheus
  publish 1 watched:800 20 >"$work/watched.log" 2>&1 &
  publisher=$!
  at=$SECONDS
  watch() { node dist/test/compose/monitoring.js "$1" "http://127.0.0.1:$PROMETHEUS_PORT" "${@:2}"; }
  must 'what Prometheus hears, and what the panels show' watch shown node/monitoring/grafana/dashboards/warren.json
  wait $publisher || { cat "$work/watched.log" && fail 'publish while Prometheus watches'; }
  must 'kill of node 3' run kill node3
  must 'an alert of a node that is dead' watch alarmed WarrenNodeDown node3
  must 'start of node 3' run start node3
  healthy 90 || fail 'node 3 is not healthy 90 s after it was killed'
  must 'drain what was published meanwhile' drain 3 watched:800
  must 'the end of Prometheus' run --profile monitoring rm --stop --force prometheus
  say "profile monitoring: Prometheus hears three nodes, has an answer for every panel, and finds a dead node, in $((SECONDS - at)) s"
else
  [ -z "${CI:-}" ] || fail "there is neither $prometheus nor a prometheus, which .ci/toolchains installs"
  say "profile monitoring: only its configuration was read, there is neither $prometheus nor a prometheus here"
fi

cp chaos/compose.env "$work/chaos.env"
with_chaos() { "${compose[@]}" --env-file "$work/chaos.env" "$@"; }
have_toxiproxy=true
if ! has "$toxiproxy"; then
  made+=("$toxiproxy")
  make_toxiproxy >/dev/null || have_toxiproxy=false
fi
if $have_toxiproxy; then
  up 'docker compose --env-file chaos/compose.env up' with_chaos
  say 'npm run chaos:'
  timeout --foreground 400 node dist/chaos/main.js --target compose --scenario partition-leader,kill-one,pause --duration 24 --seed 7 --plain \
    --out "$work/chaos" || fail "chaos, exit code $?"
else
  [ -z "${CI:-}" ] || fail "there is neither $toxiproxy nor a toxiproxy-server, which .ci/toolchains installs"
  say "profile chaos: not tried, there is neither $toxiproxy nor a toxiproxy-server here"
fi
