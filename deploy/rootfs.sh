#!/bin/sh
# Lays out the agent's image in a folder: rootfs.sh FOLDER AGENT
#
# Of this machine's own files, it takes the firewall's tools, iptables' extensions, the authorities that etcd's certificate
# may be checked against, and the libraries that all of these name.
set -eu
folder=$1
agent=$2

copy() { # a file to its own place, what links name as what it is
    mkdir -p "$folder$(dirname "$1")"
    cp -L "$1" "$folder$1"
}

libraries_of() {
    # The interpreter has no arrow.
    ldd "$1" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*/\1/p' | while read -r library; do
        [ -e "$folder$library" ] || copy "$library"
    done
}

with_libraries() {
    copy "$1"
    libraries_of "$1"
}

mkdir -p "$folder/usr/bin" "$folder/usr/sbin" "$folder/tmp" "$folder/proc" "$folder/sys/fs/bpf" "$folder/dev" \
    "$folder/run/flannel" "$folder/run/ovl" "$folder/etc/kube-flannel" "$folder/etc/cni/net.d" \
    "$folder/host/proc/sys/net"
: >"$folder/run/xtables.lock"

cp -L "$agent" "$folder/usr/bin/ovl-agent"
libraries_of "$agent"

# Each is one program under many names, which say what it does.
for program in xtables-nft-multi xtables-legacy-multi; do
    with_libraries "/usr/sbin/$program"
    for family in iptables ip6tables; do
        variant=${program#xtables-}
        variant=${variant%-multi}
        for tool in "" -save -restore; do
            ln -sf "$program" "$folder/usr/sbin/$family-$variant$tool"
        done
    done
done
for family in iptables ip6tables; do
    for tool in "" -save -restore; do
        ln -sf xtables-nft-multi "$folder/usr/sbin/$family$tool"
    done
done
with_libraries /usr/sbin/nft
find /usr/lib -path '*/xtables/*.so' | while read -r extension; do
    with_libraries "$extension"
done
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
    copy /etc/ssl/certs/ca-certificates.crt
fi
# On machines where /bin and /lib are links to what is below /usr, so they are in the image.
for name in bin sbin lib lib64; do
    if [ -L "/$name" ] && [ -d "$folder/$name" ]; then
        mkdir -p "$folder/usr/$name"
        cp -a "$folder/$name/." "$folder/usr/$name/"
        rm -r "${folder:?}/$name"
    fi
    [ ! -L "/$name" ] || ln -sfn "usr/$name" "$folder/$name"
done
