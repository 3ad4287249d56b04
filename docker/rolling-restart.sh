#!/bin/sh
# Restart the replicas of profile scale, one after the other, on the images of now. No request fails:
# a replica lets its requests end (SIGTERM), while nginx sends new ones to the others.
#
#   docker/rolling-restart.sh            COMPOSE="docker-compose -f docker/compose.yaml" for 1.29
set -eu

cd "$(dirname "$0")/.."
COMPOSE=${COMPOSE:-docker compose -f docker/compose.yaml}
PATIENCE=${PATIENCE:-900}
export COMPOSE_PROFILES=scale

all_healthy() {
    for each in $($COMPOSE ps -q replica); do
        [ "$(docker inspect -f '{{.State.Health.Status}}' "$each")" = healthy ] || return 1
    done
}

wait_until_healthy() {
    waited=0
    until all_healthy; do
        [ "$waited" -lt "$PATIENCE" ] || { echo "A replica is not healthy: stopped here." >&2; exit 1; }
        sleep 1
        waited=$((waited + 1))
    done
}

wait_until_healthy
replicas=$($COMPOSE ps -q replica)
count=$(echo "$replicas" | wc -w)
for replica in $replicas; do
    echo "Restarting $replica"
    docker stop "$replica" >/dev/null
    docker rm "$replica" >/dev/null
    $COMPOSE up -d --no-deps --no-recreate --scale "replica=$count" replica
    wait_until_healthy
done
