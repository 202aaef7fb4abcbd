#!/usr/bin/env bash
# Installs what real nodes, real images and a browser's view of a page need, by apt, where it is missing. Starts no service.
#
# Prints what is missing and exits 1 where it cannot install (not root, no apt), or was told not to: --check.
set -euo pipefail

# A command that must be there, the package that brings it, and why.
needed='
containerd       containerd                      runs the containers of a node
runc             runc                            starts one container
iptables         iptables                        Service addresses (kube-proxy) and pod networks
conntrack        conntrack                       kube-proxy forgets connections to pods that are gone
ip               iproute2                        network namespaces of the nodes
nsenter          util-linux                      starts a kubelet inside of one
mount            mount                           a node mounts its own folders
gcc              gcc                             the pause container and the first process of a node, one static program
docker-registry  docker-registry                 the registry that nodes pull from
buildah          buildah                         builds the images
promtool         prometheus                      judges metrics and alerts; answers the dashboard'"'"'s queries
chromium         chromium                        shows the pages of reports
mmdebstrap       mmdebstrap                      the images'"'"' base, where Docker Hub cannot be reached
'
# A file that must be there, likewise.
needed_files='
/usr/lib/cni/bridge              containernetworking-plugins  gives pods their addresses
/usr/include/stdlib.h            libc6-dev                    to compile that program
/usr/share/keyrings/debian-archive-keyring.gpg  debian-archive-keyring  what mmdebstrap downloads is checked
'

missing=()
while read -r command package why; do
    [ -z "$command" ] || command -v "$command" >/dev/null || { missing+=("$package"); echo "missing: $package ($why)"; }
done <<<"$needed"
while read -r file package why; do
    [ -z "$file" ] || [ -e "$file" ] || { missing+=("$package"); echo "missing: $package ($why)"; }
done <<<"$needed_files"
[ ${#missing[@]} -gt 0 ] || exit 0
[ "${1-}" != --check ] || exit 1

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "cannot install them: this needs root and apt" >&2
    exit 1
fi

# Debian starts a service when it installs one, unless a policy forbids it (101); an existing policy is put back.
policy=/usr/sbin/policy-rc.d
saved=$(mktemp -d)
[ ! -e "$policy" ] || mv "$policy" "$saved/"
restore() { rm -f "$policy"; [ ! -e "$saved/policy-rc.d" ] || mv "$saved/policy-rc.d" "$policy"; rmdir "$saved"; }
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "installing ${missing[*]} by apt; none of them is started"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
