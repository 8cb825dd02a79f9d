#!/bin/sh
# Lays out ONNX Runtime for -DONNXRUNTIME_ROOT= on a Debian that does not package it: the headers from the next Debian's
# libonnxruntime-dev, the library from the Python package. Nothing is installed. A library that is newer than its headers
# is what ONNX Runtime promises to support.
#
#   ./fetch_onnxruntime.sh FOLDER [PYTHON]
#
# PYTHON is one that has onnxruntime; the one on the path when left out.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: fetch_onnxruntime.sh FOLDER [PYTHON]" >&2
  exit 2
fi
python=${2:-python}
release=trixie
library=$("$python" -c 'import onnxruntime, pathlib
(found,) = (pathlib.Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
print(found)')
mkdir -p "$1/lib" "$1/include"
root=$(cd "$1" && pwd)
ln -sf "$library" "$root/lib/libonnxruntime.so"
ln -sf "$library" "$root/lib/libonnxruntime.so.1"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/sources" "$work/files"
# This machine's own mirror, asked for another release.
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian/\{0,1\}$' | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" > "$work/sources/next.list"
apt() {
  apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" \
    -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" "$@"
}
apt update
(cd "$work" && apt download libonnxruntime-dev nlohmann-json3-dev)
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/files"; done
cp -r "$work"/files/usr/include/* "$root/include/"
echo "$root: headers of $(basename "$work"/libonnxruntime-dev_*.deb .deb), library $(basename "$library")"
