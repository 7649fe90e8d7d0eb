# Clean Debian trees: made once by debootstrap, kept, and given this machine's access to the network.
# Invariant: nothing that is tried or built changes a kept tree. Needs root and, the first time, debootstrap.
# shellcheck shell=bash
# lib.sh must be sourced first.

trees=${XDG_CACHE_HOME:-/var/cache}/dicomd-clean-tree

# base_tree SUITE: prints the path of the kept tree of SUITE, which has only python3, git and ca-certificates.
base_tree() {
    local base=$trees/$1
    mkdir -p "$trees"
    (
        flock 9
        [ ! -d "$base" ] || exit 0
        PATH=$PATH:/usr/sbin:/sbin command -v debootstrap >/dev/null || apt_install "to make the clean tree" debootstrap
        say "installing $1 into $base with debootstrap"
        rm -rf "$base.new"
        debootstrap --variant=minbase --include=python3,git,ca-certificates "$1" "$base.new" >&2
        mv "$base.new" "$base"
    ) 9>"$trees/lock" || die "could not make the clean tree of $1"
    echo "$base"
}

# What the tests of the service need: systemd, a real sender, and programs to read manuals and logs.
service_packages=(systemd systemd-sysv dbus dcmtk iproute2 man-db procps)

# service_tree SUITE: prints the path of the kept, bootable tree of SUITE: the base tree with these packages.
service_tree() {
    local tree=$trees/$1-service base
    base=$(base_tree "$1")
    (
        flock 9
        [ "$(cat "$tree/root/made-of" 2>/dev/null)" != "${service_packages[*]}" ] || exit 0
        say "making the bootable tree: $tree"
        rm -rf --one-file-system "$tree" "$tree.new"
        cp -a --reflink=auto "$base" "$tree.new"
        reach_network "$tree.new"
        inside "$tree.new" sh -ec 'export DEBIAN_FRONTEND=noninteractive
            printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d
            chmod 0755 /usr/sbin/policy-rc.d
            apt-get -q update
            apt-get -q -y --no-install-recommends install "$@"
            apt-get clean
            rm /usr/sbin/policy-rc.d' sh "${service_packages[@]}" </dev/null >&2
        echo "${service_packages[*]}" >"$tree.new/root/made-of"
        mv "$tree.new" "$tree"
    ) 9>"$trees/lock-$1-service" || die "could not make the bootable tree"
    echo "$tree"
}

# reach_network TREE: copies what this machine needs to reach the network (resolver, apt's transport settings,
# certificate authorities) into TREE, and puts the environment variables for it into environment_of_the_host.
reach_network() {
    local tree=$1 name value
    cp --remove-destination /etc/resolv.conf "$tree/etc/resolv.conf"
    apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https|ftp|Retries|Proxy)' >"$tree/etc/apt/apt.conf.d/99host" || true
    cp -a /usr/local/share/ca-certificates/. "$tree/usr/local/share/ca-certificates/" 2>/dev/null || true
    environment_of_the_host=(HOME=/root TERM=dumb LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    while IFS='=' read -r -d '' name value; do
        case $name in
            [Hh][Tt][Tt][Pp]_[Pp][Rr]* | [Hh][Tt][Tt][Pp][Ss]_[Pp][Rr]* | [Nn][Oo]_[Pp][Rr]* | [Aa][Ll][Ll]_[Pp][Rr]*) ;;
            PIP_INDEX_URL | PIP_EXTRA_INDEX_URL | PIP_TRUSTED_HOST | PIP_PROXY | PIP_DEFAULT_TIMEOUT) ;;
            PIP_CERT | SSL_CERT_FILE | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE | GIT_SSL_CAINFO)
                [ -f "$value" ] || continue
                mkdir -p "$tree$(dirname "$value")"
                cp -L --remove-destination "$value" "$tree$value"
                ;;
            *) continue ;;
        esac
        environment_of_the_host+=("$name=$value")
    done </proc/self/environ
}

# inside [--alone] [--work FOLDER] TREE COMMAND...: runs COMMAND in TREE, in PID and mount namespaces of its own.
# --alone takes away all network but loopback; --work makes TREE read-only, except for /tmp and for FOLDER as /work.
inside() {
    local options=() setup='mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; exec chroot "$0" "$@"'
    if [ "$1" = --alone ]; then
        options=(--net) setup="ip link set lo up; $setup"
        shift
    fi
    if [ "$1" = --work ]; then
        setup='work=$1; shift; mount --bind "$0" "$0"; cd "$0"; mount -o remount,bind,ro "$0"
            mount -t tmpfs tmpfs "$0/tmp"; mount --bind "$work" "$0/work";'" $setup"
        set -- "$3" "$2" "${@:4}"
    fi
    env -i "${environment_of_the_host[@]}" \
        unshare --mount --pid "${options[@]}" --fork --kill-child=KILL sh -ec "$setup" "$@"
}
