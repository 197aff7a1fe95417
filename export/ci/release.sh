#!/usr/bin/env bash
# Serve one deletion request and leave what devices get: the GitHub and GitLab templates run this, and so can you.
#
#   release.sh PROJECT REQUEST.json OUT
#
# OUT gets bundle/ and bundle.tar, junit.xml and summary.md. The exit code is qmu-edge's: 7 when the file still
# knows what it should have forgotten. A request that was served before is not served twice.
set -uo pipefail
project=$1 request=$2 out=$3
mkdir -p "$out"

step() { # title, command...: its output goes to the summary, its failure ends the job
  printf '### %s\n\n```\n' "$1" >> "$out/summary.md"
  "${@:2}" >> "$out/summary.md" 2>&1
  local code=$?
  printf '```\n\n' >> "$out/summary.md"
  if [ "$code" -ne 0 ]; then
    printf '**%s failed with exit code %d.**\n' "$1" "$code" >> "$out/summary.md"
    if [ ! -e "$out/junit.xml" ]; then
      printf '<testsuite name="qmu-edge" tests="1" failures="1"><testcase name="%s"><failure message="exit code %d"/></testcase></testsuite>\n' \
        "$1" "$code" > "$out/junit.xml"
    fi
    exit "$code"
  fi
}

: > "$out/summary.md"
rm -f "$out/junit.xml"
step "Unlearn" qmu-edge unlearn --project "$project" --request "$request" --quiet
[ -e "$out/bundle" ] || step "Export" qmu-edge export --project "$project" --bundle "$out/bundle" --quiet
step "Verify" python -m qmu_edge.verify "$out/bundle" --junit "$out/junit.xml"
