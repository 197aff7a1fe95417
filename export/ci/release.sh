#!/usr/bin/env bash
# Serve one deletion request and leave what devices get: the GitHub and GitLab templates run this, and so can you.
#
#   release.sh PROJECT REQUEST.json OUT RECEIPTS
#
# PROJECT is kept from job to job, on a disk of yours: whoever begins with a new one trains on what was deleted.
# RECEIPTS is a folder under version control. Each receipt in it must be PROJECT's, and there must be one if PROJECT has
# issued any, or the job ends with exit code 8 before anything is done; what is missing is added, and is yours to commit.
# OUT gets bundle/ and bundle.tar, trusted.pub, predicate.json, junit.xml and summary.md; what an earlier job has
# left of these is removed first. The exit code is qmu-edge's: 7 when the file still knows what it should have
# forgotten. A request that was served before is not served twice. Another job that holds PROJECT is waited for.
set -uo pipefail
if [ $# -ne 4 ]; then
  echo "usage: release.sh PROJECT REQUEST.json OUT RECEIPTS" >&2
  exit 2
fi
project=$1 request=$2 out=$3 receipts=$4
hold=(--project "$project" --wait "${QMU_EDGE_WAIT:-3600}")
if [ -L "$out" ] || [ -L "$receipts" ]; then # a link that came with a checkout leads anywhere
  echo "$out or $receipts: a link; allowed are folders" >&2
  exit 2
fi
mkdir -p "$out" || exit 2

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

clear_out() { # nothing of an earlier job is taken for this one's
  if [ -e "$out/bundle" ] && [ ! -f "$out/bundle/manifest.json" ]; then
    echo "$out/bundle: not a bundle; move it away"
    return 2
  fi
  rm -rf -- "$out/bundle" "$out/bundle.tar" "$out/trusted.pub" "$out/predicate.json"
}

keep() { # the receipts under their numbers, and the predicate of the last for an attestation
  local kept
  qmu-edge receipt keep "$receipts" --begin --project "$project" || return
  kept=$receipts/$(python -P -c 'import json, sys; print("%06d" % json.load(open(sys.argv[1]))["issued"]["number"])' \
    "$out/bundle/manifest.json").json || return
  if ! cmp -s "$kept" "$out/bundle/receipt.json"; then
    echo "$kept: not the receipt of the bundle"
    return 8
  fi
  qmu-edge receipt show "$kept" --json |
    python -P -c 'import json, sys; json.dump(json.load(sys.stdin)["receipt"]["predicate"], open(sys.argv[1], "w"))' \
      "$out/predicate.json" && echo "$kept"
}

rm -f -- "$out/junit.xml" "$out/summary.md" || exit 2
: > "$out/summary.md"
step "Folder" clear_out
step "Receipts so far" qmu-edge receipt keep "$receipts" --project "$project"
step "Unlearn" qmu-edge unlearn --request "$request" "${hold[@]}" --quiet
step "Export" qmu-edge export --bundle "$out/bundle" "${hold[@]}" --quiet
step "Key" qmu-edge keys export --public --out "$out/trusted.pub" --project "$project"
step "Verify" python -P -m qmu_edge.verify "$out/bundle" --key "$out/trusted.pub" --junit "$out/junit.xml"
step "Receipt" keep
