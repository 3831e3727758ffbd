#!/usr/bin/env bash
# The data of the paper, from its public repository: rec_data/, instruction_data/ and cot_data/stage123.json below ROOT_PATH.
# Every file is known by its git blob SHA-1 (the table in tlrec/data/published.py), wherever it lies in that repository. What
# exists already is compared and kept. The same command again fetches what is missing.
#   bash shell/get_published_data.sh [REPOSITORY]        # an address, or the folder of a clone; by default the paper's
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

ROOT_PATH="${ROOT_PATH:-$repository}" # folder of data, adapters and base model

source "$repository/shell/launch.sh"
[ $# -le 1 ] && [[ "${1:-}" != -* ]] || fail "usage: bash shell/get_published_data.sh [REPOSITORY], an address or the folder of a clone"
from="${1:-https://github.com/ljy2222/TLRec.git}"
command -v git >/dev/null || fail "git is not on the PATH; install it"
table="$("$PYTHON" -c 'from tlrec.data.published import FILES
for path, (blob, name) in FILES.items(): print(blob, path, name)')"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# fetch_once: the newest commit of the repository, and the digests of its files, unless it is here already.
fetch_once() {
  [ ! -e "$work/clone" ] || return 0
  echo "== fetching $from"
  GIT_TERMINAL_PROMPT=0 git clone --quiet --bare --depth 1 --no-local -- "$from" "$work/clone" 2>"$work/log" ||
    fail "$from: cannot be cloned: $(tail -n 1 "$work/log")"
  blobs="$(git -C "$work/clone" ls-tree -r HEAD)"
}

# The files: each is there already, or is placed whole
status=0
while read -r blob path name; do
  file="$ROOT_PATH/$path"
  if [ -e "$file" ]; then
    if [ "$(git hash-object --no-filters -- "$file")" = "$blob" ]; then
      echo "$file: $name, as published (was there already)"
    else
      echo "error: $file: is another file than the published $name and was kept; move it away to get the published one" >&2
      status=2
    fi
    continue
  fi
  fetch_once
  if [[ "$blobs" != *"blob $blob"* ]]; then
    echo "error: $path: the published $name (git blob $blob) is not in $from; it has been changed or taken away there" >&2
    status=2
    continue
  fi
  mkdir -p "$(dirname "$file")"
  git -C "$work/clone" cat-file blob "$blob" >"$file.part"
  mv "$file.part" "$file"
  echo "$file: $name, as published"
done <<<"$table"

cat <<'END'
These are data sets of others, whose terms are yours to keep. TLRec's own licence does not cover them:
  Movie        MovieLens-100K, GroupLens: research; no redistribution and no commercial use without their permission;
               cite Harper and Konstan, ACM TiiS 5(4), 2015
  Netflix      Netflix Prize: research; no redistribution and no commercial use without permission; no claim of endorsement
  Book         Book-Crossing: free for research, with a citation of Ziegler et al., WWW 2005
  Amazon-Book  Amazon Books Reviews: the licence on its Kaggle page; cite McAuley and Leskovec, RecSys 2013
END
exit "$status"
