# Sourced by the tests of the ways in, from the checkout: the programs of this folder, which load a plugin,
# call into it and unload it, are built in an empty folder and run. $tier is the test's name.
# shellcheck shell=sh
CC=${CC:-cc} CXX=${CXX:-c++}
export LC_ALL=C
# The folder's real name, so that it is the one that would be found in a file.
tmp=$(realpath "$(mktemp -d)")
here=$(realpath .)
trap 'rm -rf "$tmp"' EXIT
checks=0

fail() {
	echo "$tier: FAILED: $*" >&2
	exit 1
}

# passed: one more.
passed() {
	checks=$((checks + 1))
}

# same WHAT FOUND EXPECTED
same() {
	[ "$2" = "$3" ] || fail "$1 is '$2', and should be '$3'"
	passed
}

has() {
	command -v "$1" >/dev/null 2>&1
}

# make_to TARGET VARIABLE...: quiet, unless it fails.
make_to() {
	make --no-print-directory "$@" >"$tmp/log" 2>&1 || {
		cat "$tmp/log" >&2
		fail "make $*"
	}
}

ci/need "${CC%% *}" "a C compiler" "apt-get install gcc"
ci/need readelf "readelf" "apt-get install binutils"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
abi=${version%%.*}

# The C++ compiler may be missing.
cxx=$CXX
has "${cxx%% *}" || {
	ci/skip "$tier" "C++ programs: there is no $CXX here (apt-get install g++)"
	cxx=
}

# run FOLDER LIBRARIES: the programs in it, with the plugin in it.
run() {
	for program in c-shared c-static cxx-shared cxx-static; do
		[ -e "$1/$program" ] || continue
		said=$(LD_LIBRARY_PATH="$2" timeout 60 "$1/$program" "$1/plugin.so") ||
			fail "$program in $1 ends with status $?"
		same "what $program says" "$said" "version $version, the answer is 42"
		needs=$(readelf -d "$1/$program" | sed -n 's/.*NEEDED.*\[\(libmodule_ref.*\)\]/\1/p')
		case $program in
		*-shared) same "what $program needs" "$needs" "libmodule_ref.so.$abi" ;;
		*) same "what $program needs" "$needs" "" ;;
		esac
	done
}

# guarded LIBDIR: where the guard cannot be preloaded the dynamic linker says so.
guarded() {
	same "what a guarded program says" "$(LD_PRELOAD=$1/libmodule_guard.so ls /dev/null 2>&1)" /dev/null
}

# by_pkg_config LIBDIR SYSROOT
by_pkg_config() {
	if ! has pkg-config; then
		ci/skip "$tier" "by pkg-config: there is none here (apt-get install pkg-config)"
		return
	fi
	# Also if it is a folder of the system's.
	export PKG_CONFIG_LIBDIR="$2$1/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$2" \
		PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1
	same "the version of module_ref.pc" "$(pkg-config --modversion module_ref)" "$version"
	same "its libraries" "$(pkg-config --libs module_ref | sed 's/ *$//')" "-L$2$1 -lmodule_ref"
	private=$(pkg-config --libs --static module_ref)
	for library in -ldl -lpthread; do
		case " $private " in
		*" $library "*) passed ;;
		*) fail "pkg-config --static module_ref has no $library: $private" ;;
		esac
	done
	flags=$(pkg-config --cflags module_ref)
	shared=$(pkg-config --libs module_ref)
	# pkgconf puts the sysroot before variables, too; pkg-config does not.
	compat=$(pkg-config --variable=linux_compat module_ref)
	compat=$2${compat#"$2"}
	# The one library statically, the system's as ever.
	static=$(printf '%s' "$private" | sed 's/-lmodule_ref/-l:libmodule_ref.a/')
	strict="-Wall -Wextra -Wpedantic -Werror -O1"
	mkdir "$tmp/pkg-config"
	# The variables are lists of words.
	# shellcheck disable=SC2086
	{
		$CC -std=c11 $strict -fPIC -shared -DMODULE -o "$tmp/pkg-config/plugin.so" \
			-I"$compat" ci/programs/plugin.c
		$CC -std=c11 $strict $flags -o "$tmp/pkg-config/c-shared" ci/programs/c.c $shared
		$CC -std=c11 $strict $flags -o "$tmp/pkg-config/c-static" ci/programs/c.c $static
		if [ -n "$cxx" ]; then
			$cxx -std=c++17 $strict $flags -o "$tmp/pkg-config/cxx-shared" \
				ci/programs/cxx.cpp $shared
			$cxx -std=c++17 $strict $flags -o "$tmp/pkg-config/cxx-static" \
				ci/programs/cxx.cpp $static
		fi
	}
	run "$tmp/pkg-config" "$2$1"
	rm -r "$tmp/pkg-config"
	unset PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR
}
