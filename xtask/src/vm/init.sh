#!/bin/busybox sh
# The first process of a guest: it sets up a small Linux for the tests, runs the plan from the kernel's command line (plan=NAME,
# which the kernel passes as a variable), and powers off. The kernel's messages go to the first serial port, the output of the
# tests to the second (port=NAME).
export PATH=/bin HOME=/ TMPDIR=/tmp
/bin/busybox mkdir -p /proc /sys /dev /tmp /etc /run
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
echo 'root:x:0:0::/:/bin/sh' >/etc/passwd
echo '127.0.0.1 localhost guest' >/etc/hosts
hostname guest
# Each BIND has a root of its own with its own libraries, and shares these folders.
for root in /bind/*; do
    mount --bind /dev "$root/dev"
    mount --bind /tmp "$root/tmp"
    mount -t proc proc "$root/proc"
done
# Count the time that the kernel spends in BPF programs, for the summaries of the agent.
echo 1 >/proc/sys/kernel/bpf_stats_enabled

# phase NUMBER BIND HOOKS RINGS QUERIES RATE [FILTER]: makes one run of the tests. Everything takes long here, even the kernel's ticks.
phase() {
    echo "@phase $1"
    DNSTAP_AGENT=/bin/dnstap-agent NAMED="/bin/named-$2" DNSTAP_HOOKS="$3" DNSTAP_RINGS="$4" \
        DNSTAP_OWN_MACHINE=1 DNSTAP_QUERIES="$5" DNSTAP_RATE="$6" DNSTAP_ZONE_RECORDS=2000 DNSTAP_LAG_MS=100 \
        dnstap-tests --color never ${7:+"$7"} 2>&1
    echo "@end $1 $?"
}

if [ "$plan" = shell ]; then
    echo 'Here are dnstap-agent, dnstap-tests, named-9.16, named-9.18, named-9.20, dig... `exit` ends the machine.'
    setsid cttyhack sh
else
    exec >"/dev/$port" 2>&1
    echo "@kernel $(uname -r) $(uname -v)"
    . "/plans/$plan"
    echo '@done'
fi
poweroff -f
