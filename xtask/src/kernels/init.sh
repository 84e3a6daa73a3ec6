#!/usr/bin/busybox sh
# The first process of a guest: makes a system around the tests, runs them, ends the machine.
# What the tests say goes to the second serial port; the first is the kernel's.
applets=/usr/lib/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$applets HOME=/root TMPDIR=/tmp LANG=C.UTF-8
/usr/bin/busybox mkdir -p /dev /proc /sys /run/netns /tmp /root /etc /var $applets
/usr/bin/busybox --install -s $applets
ln -sfn /run /var/run
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p /dev/shm /dev/net
mount -t tmpfs shm /dev/shm
# The tests move mounts about as on a machine with systemd, where they are shared.
mount --make-rshared /
ln -sfn /proc/self/fd /dev/fd
ln -sfn fd/0 /dev/stdin
ln -sfn fd/1 /dev/stdout
ln -sfn fd/2 /dev/stderr
echo 'root:x:0:0:root:/root:/bin/sh' > /etc/passwd
echo 'root:x:0:' > /etc/group
echo '127.0.0.1 localhost' > /etc/hosts
echo 'hosts: files' > /etc/nsswitch.conf
# Where Debian's users have it; the kernel's own default may not lead anywhere here.
echo /usr/sbin/modprobe > /proc/sys/kernel/modprobe
# As on every node of Kubernetes.
modprobe br_netfilter
# The cards of a guest that has some.
modprobe virtio_net
modprobe virtio_pci
# Whoever opens /dev/net/tun loads it where udev has made the file.
modprobe tun
hostname guest
ip link set lo up
stty -F /dev/ttyS1 raw -echo
# A session of their own, so that no stray signal reaches this process.
setsid sh /ovl-tests < /dev/null > /dev/ttyS1 2>&1
poweroff -f
