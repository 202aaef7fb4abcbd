#!/usr/bin/env bash
# Builds the images of operator and trainer, with docker or buildah, whichever is there.
#
#   deploy/images.sh [operator] [trainer] [trainer-unsloth]      the first two by default
#
# Environment:
#   REPOSITORY   where the images' names begin: REPOSITORY/finetune-trainer (default: localhost)
#   TAG          their tag (default: the version in pyproject.toml)
#   BASE         the base image, with python3 and its venv module (default: the Dockerfile's)
#   BUILDER      docker or buildah, where both are there
set -euo pipefail
cd "$(dirname "$0")/.."

builder=${BUILDER:-$(command -v docker || command -v buildah || true)}
[ -n "$builder" ] || { echo "neither docker nor buildah is installed: one of them builds the images" >&2; exit 1; }
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml | head -n 1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

case $builder in
    *buildah)
        build=("$builder" build --layers --network host)
        # A machine whose certificates are its own (a company's proxy) lends them to the steps; the image gets none.
        case ${SSL_CERT_FILE:-} in
            /etc/ssl/certs/*)
                build+=(--volume /etc/ssl/certs:/etc/ssl/certs:ro --build-arg "SSL_CERT_FILE=$SSL_CERT_FILE") ;;
        esac ;;
    *)
        build=("$builder" build) ;;
esac
[ -z "${BASE:-}" ] || build+=(--build-arg "BASE=$BASE")

[ $# -gt 0 ] || set -- operator trainer
for part in "$@"; do
    file=$part/Dockerfile
    [ "$part" != trainer-unsloth ] || file=trainer/Dockerfile.unsloth
    image=${REPOSITORY:-localhost}/finetune-$part:${TAG:-$version}
    echo "building $image with $builder"
    # docker finds the list of what to leave out by its name, buildah is told.
    case $builder in *buildah) ignore=(--ignorefile "$file.dockerignore") ;; *) ignore=() ;; esac
    "${build[@]}" ${ignore[@]+"${ignore[@]}"} --file "$file" --tag "$image" \
        --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$revision" .
done
