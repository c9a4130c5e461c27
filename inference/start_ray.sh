#!/usr/bin/env bash
# A Ray cluster of a robot's computer and of those that run its policies, for `chunkwise run --worker ray`.
#
#   start_ray.sh head [OPTION ...]                            on one computer, the robot's for example
#   start_ray.sh node HEAD[:PORT] [RESOURCE[=AMOUNT] ...] [OPTION ...]
#                                                             on every other one, with what its policies ask for
#   start_ray.sh stop                                         on each; ends every Ray process of this user there
#
#   start_ray.sh node 10.0.0.1 inference_pc
#   chunkwise run --policy my_policy.py:MyPolicy --worker ray --worker.resources inference_pc --worker.num-gpus 1
#
# OPTIONs are those of `ray start`, --block and --num-gpus=1 for example.  The head listens at PORT (6379).
#
# Who belongs to a Ray cluster can run any program on all of it, so nobody joins without the token: `head` makes one
# in ~/.ray/auth_token (or uses that of RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH); copy it to the other computers first.
# Even so, keep the cluster in a network of its own: frames and commands are not encrypted.
set -euo pipefail

export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
port=${PORT:-6379}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}

fail() {
  echo "start_ray.sh: $*" >&2
  exit 2
}

command -v ray > /dev/null || fail "there is no \`ray\` here: pip install 'chunkwise[ray]', in this environment"

case "${1:-}" in
  head)
    shift
    if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "$token" ]; then
      (umask 077 && ray get-auth-token --generate > /dev/null)
    fi
    echo "on every other computer:"
    if [ -n "${RAY_AUTH_TOKEN:-}" ]; then
      echo "  export RAY_AUTH_TOKEN=...   # what it is here"
    else
      echo "  mkdir -p -m 700 ~/.ray"
      echo "  scp $(hostname -f 2> /dev/null || hostname):$token ~/.ray/auth_token && chmod 600 ~/.ray/auth_token"
    fi
    echo "  start_ray.sh node $(hostname -I | cut -d' ' -f1):$port inference_pc"
    exec ray start --head --port="$port" --include-dashboard=false "$@"
    ;;
  node)
    [ $# -ge 2 ] || fail "which head? start_ray.sh node HEAD[:PORT] [RESOURCE[=AMOUNT] ...]"
    head=$2
    shift 2
    [[ $head == *:* ]] || head=$head:$port
    [ -n "${RAY_AUTH_TOKEN:-}" ] || [ -s "$token" ] \
      || fail "no token: copy the head's ~/.ray/auth_token to $token, or set RAY_AUTH_TOKEN"
    resources=
    while [ $# -gt 0 ] && [[ $1 != --* ]]; do
      [[ $1 =~ ^([A-Za-z_][A-Za-z0-9_]*)(=([0-9]+))?$ ]] || fail "$1 is neither RESOURCE nor RESOURCE=AMOUNT, a whole number"
      resources+=${resources:+, }"\"${BASH_REMATCH[1]}\": ${BASH_REMATCH[3]:-1}"
      shift
    done
    exec ray start --address="$head" --resources="{$resources}" "$@"
    ;;
  stop)
    exec ray stop
    ;;
  *)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
    ;;
esac
