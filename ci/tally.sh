# Sourced by the tiers: counts what passes, fails and is skipped, and ends with the sums.
# shellcheck shell=sh
tier=$(basename "$0")
skipper=$(cd "$(dirname "$0")/../ci" && pwd)/skip
passed=0 failed=0 skipped=0

pass() { # what was tested
	passed=$((passed + 1))
	[ $# -eq 0 ] || echo "ok - $*"
}

fail() { # what was tested, or what is wrong
	failed=$((failed + 1))
	echo "not ok - $*"
}

# Of a command whose output is in $out/log.
verdict() { # 0 or 1, and what was tested
	if [ "$1" -eq 0 ]; then
		pass "$2"
	else
		fail "$2"
		grep -v '^ok ' "$out/log" | head -60
	fi
}

skip() { # what is not tested, and why
	skipped=$((skipped + 1))
	"$skipper" "$tier" "$*"
}

none() { # why nothing is tested
	skip "$1"
	finish
}

# A program that speaks TAP: it has failed, whatever it said, if it was killed, broke off, or did not
# keep its plan; a skipped test has not passed. One that hangs is ended after half an hour, which no
# slow machine takes.
tap() { # a program
	out=$(timeout 1800 "$1" 2>&1)
	rc=$?
	lines() { printf '%s\n' "$out" | grep -c "$1"; }
	good=$(lines '^ok ') bad=$(lines '^not ok ') idle=$(lines '^ok .*# SKIP')
	plan=$(printf '%s\n' "$out" | sed -n 's/^1\.\.\([0-9]*\).*/\1/p')
	while read -r why; do
		[ -z "$why" ] || skip "$(basename "$1"): $why"
	done <<-END
		$(printf '%s\n' "$out" | sed -n 's/^ok [0-9]* - \(.*\) # SKIP/\1:/p; s/^1\.\.0 # SKIP //p')
	END
	passed=$((passed + good - idle)) failed=$((failed + bad))
	if [ $rc -ne 0 ] || [ "$bad" -ne 0 ] || [ "$plan" != $((good + bad)) ]; then
		[ "$bad" -ne 0 ] || failed=$((failed + 1))
		printf '%s\n' "$out" | grep -v '^ok '
		verdict="FAILED (status $rc, $((good + bad)) tests, planned: ${plan:-none})"
	else
		verdict="$((good - idle)) tests"
	fi
	printf '%-40s %s\n' "$1" "$verdict"
}

# A tier that tested nothing and skipped nothing is broken.
finish() {
	echo "$tier: $passed passed, $failed failed, $skipped skipped"
	[ $failed -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
	exit
}
