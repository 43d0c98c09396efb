# The script of a guest that counts: for each contender it starts a fresh server, runs a load at a fixed rate, and prints the CPU time
# of server and helper. The plan follows this: it sets `server`, `rate`, `names`, `options` and `upstream`, and has `count CONTENDER` for each.

# Mount these as on most machines; the agent reads there whether the kernel preempts. Statistics of the programs are off, because their cost would be counted.
mount -t debugfs debugfs /sys/kernel/debug
echo 0 >/proc/sys/kernel/bpf_stats_enabled
mkdir /sys/fs/cgroup/server /sys/fs/cgroup/helper

# fail WHAT: ends the machine with an error.
fail() {
    echo "@failed $1"
    for log in /tmp/run/*.log; do
        echo "$log:"
        tail -n 20 "$log"
    done
    poweroff -f
}

# start GROUP LOG COMMAND...: starts a command in a cgroup, which counts its CPU time, including threads that have ended. `$!` is the command.
start() {
    (
        echo 0 >"/sys/fs/cgroup/$1/cgroup.procs"
        log=$2
        shift 2
        exec "$@" >"$log" 2>&1
    ) &
}

# wait_for WHAT COMMAND...: waits until the command succeeds.
wait_for() {
    what=$1
    shift
    tries=0
    until "$@" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || fail "$what: not in a minute"
        sleep 0.1
    done
}

# Prints the CPU time of a cgroup in microseconds; one microsecond is a thousand instructions.
used() {
    awk '/^usage_usec/ { print $2 }' "/sys/fs/cgroup/$1/cpu.stat"
}

# load NAMES: sends each name once.
load() {
    dnsperf -s "$server" -p 5300 -c 2 -q 60 -n 1 -Q "$rate" -d "$1" $options >/tmp/run/dnsperf.log 2>&1 || fail dnsperf
}

# statistic LABEL: prints a number from the report of dnsperf.
statistic() {
    sed -n "s/^ *$1: *\([0-9]*\).*/\1/p" /tmp/run/dnsperf.log
}

# named FOLDER GROUP: starts a server with the files of /servers/FOLDER.
named() {
    cp -r "/servers/$1" "/tmp/run/$1"
    start "$2" "/tmp/run/$1.log" named-9.18 -g -n 1 -c "/tmp/run/$1/named.conf"
    named=$!
    wait_for "named $1 runs" grep -q ' running$' "/tmp/run/$1.log"
}

# end SIGNAL PROCESS: sends the signal and waits for the end.
end() {
    kill "-$1" "$2" 2>/dev/null
    wait "$2"
}

# count CONTENDER: counts for `untapped`, `own` or a hook.
count() {
    rm -rf /tmp/run
    mkdir /tmp/run
    conf=plain
    helper=
    if [ "$1" = own ]; then
        conf=own
        start helper /tmp/run/helper.log fstrm_capture -t protobuf:dnstap.Dnstap -u /tmp/run/dnstap.sock -w /tmp/run/out
        helper=$!
        wait_for 'fstrm_capture listens' test -S /tmp/run/dnstap.sock
    fi
    if [ "$upstream" ]; then
        named upstream .
        world=$named
    fi
    named "$conf" server
    if [ "$1" != own ] && [ "$1" != untapped ]; then
        start helper /tmp/run/helper.log dnstap-agent attach --hook "$1" --ring bpf --pid "$named" -o file:/tmp/run/out
        helper=$!
        wait_for 'the agent attaches' grep -q 'attached to ' /tmp/run/helper.log
    fi
    # Warm-up: pages that are touched for the first time, and other work that happens only once.
    load /names/warm-up
    warm=$(($(statistic 'Queries sent') + $(statistic 'Queries completed')))
    sleep 1.2
    server_before=$(used server)
    helper_before=$(used helper)
    load "$names"
    # Messages in flight arrive, and their cost is counted.
    sleep 1.2
    server_after=$(used server)
    helper_after=$(used helper)
    sent=$(statistic 'Queries sent')
    answered=$(statistic 'Queries completed')

    # The server ends first: it has buffered messages for fstrm_capture. The agent may end with it.
    end TERM "$named"
    [ ! "$upstream" ] || end TERM "$world"
    expected=$((warm + sent + answered))
    messages=$expected
    if [ "$helper" ]; then
        end INT "$helper"
        messages=$(dnstap-agent read --count /tmp/run/out | sed -n 's/^total //p')
    fi
    echo "@counted $1 $sent $answered $((server_after - server_before)) $((helper_after - helper_before)) $expected $messages"
}
