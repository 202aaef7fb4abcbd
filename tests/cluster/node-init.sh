#!/bin/sh
# The first process of a node: gives it folders of its own, then waits. Its mounts, network and processes end with it.
#
# node-init.sh FOLDER IMAGES PAUSE-PROGRAM
set -eu
folder=$1 images=$2
mkdir -p "$images" "$folder/lib/containerd" "$folder/lib/kubelet" "$folder/lib/cni" "$folder/log"
# Volumes that the kubelet mounts must show up in containers; none of it shows up outside of the node.
mount --make-rshared /
# containerd, the kubelet and the network plugins have fixed places in these three.
mount --bind "$folder/lib" /var/lib
mount --bind "$images" /var/lib/containerd
mount --bind "$folder/log" /var/log
mount -t tmpfs run /run
echo 1 >/proc/sys/net/ipv4/ip_forward
touch "$folder/ready"
exec "$3"
