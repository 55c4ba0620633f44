#!/bin/sh
# Makes certificates for vmd over TLS with openssl: an authority, and what it signs. To try things out, and for hosts of
# one owner; a fleet has an authority of its own.
#
#   certs.sh DIR ca                              DIR/ca.key, DIR/ca.crt
#   certs.sh DIR server NAME DNS:HOST,IP:ADDR    DIR/NAME.key, DIR/NAME.crt: a daemon's
#   certs.sh DIR client NAME [DNS:.. or URI:..]  DIR/NAME.key, DIR/NAME.crt: a client's; its name is NAME if no other is given
#
# Roles are given to the names of clients, in [roles.*] certificates of vmd.toml. What exists is not overwritten: remove
# it first. A certificate is good for VMD_CERT_DAYS days (365), the authority for ten times that.
set -eu
umask 077

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

fresh() {
    for file; do
        if [ -e "$file" ]; then
            echo "certs.sh: $file exists" >&2
            exit 1
        fi
    done
}

key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null
}

# sign NAME USAGE NAMES
sign() {
    fresh "$dir/$1.key" "$dir/$1.crt"
    key "$dir/$1.key"
    openssl req -new -key "$dir/$1.key" -subj "/CN=$1" |
        openssl x509 -req -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -days "$days" -sha256 \
            -set_serial "0x$(openssl rand -hex 16)" -extfile /dev/fd/3 -out "$dir/$1.crt" 3<<END 2>/dev/null
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = $2
subjectAltName = $3
END
    chmod 644 "$dir/$1.crt"
    echo "$dir/$1.crt"
}

[ $# -ge 2 ] || usage
dir=$1
days=${VMD_CERT_DAYS:-365}
mkdir -p "$dir"
case "$2 $#" in
    "ca 2")
        fresh "$dir/ca.key" "$dir/ca.crt"
        key "$dir/ca.key"
        openssl req -x509 -new -key "$dir/ca.key" -subj "/CN=vmd CA" -days "$((days * 10))" -sha256 \
            -addext "basicConstraints = critical, CA:true" -addext "keyUsage = critical, keyCertSign, cRLSign" \
            -out "$dir/ca.crt"
        chmod 644 "$dir/ca.crt"
        echo "$dir/ca.crt"
        ;;
    "server 4") sign "$3" serverAuth "$4" ;;
    "client 3") sign "$3" clientAuth "DNS:$3" ;;
    "client 4") sign "$3" clientAuth "$4" ;;
    *) usage ;;
esac
