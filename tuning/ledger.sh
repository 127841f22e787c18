# Sourced by the scripts beside it: sets files of /proc and /sys, and can set them back.
#
# A script says what it wants by `want PATH VALUE` (the path from the root, without its first slash), and then calls `settle`:
#   1. What already has its value is left alone.
#   2. The state file is written first: path, value before, value after, between tabs. So a run that is interrupted can be
#      restored, and a second run does not take our values for the first ones.
#   3. Then the values are written.
# `restore` sets back what still has our value. What somebody else has set since is left to them.
#
# Exit status: 0 done, 1 a value could not be set, 64 the command line or the root is wrong.

set -euo pipefail

readonly USAGE=64
root=/
state=
dry_run=false
restoring=false
wanted_paths=()
wanted_values=()

complain() {
  echo "$(basename "$0"): $1" >&2
  exit "${2:-$USAGE}"
}

# Takes a flag all scripts know; answers the number of words it took in `taken`, 0 if it is not one of them.
common_flag() {
  taken=1
  case $1 in
    --dry-run) dry_run=true ;;
    --restore) restoring=true ;;
    --root | --state)
      [ $# -ge 2 ] || complain "$1 wants a value"
      case $1 in
        --root) root=$2 ;;
        --state) state=$2 ;;
      esac
      taken=2
      ;;
    *) taken=0 ;;
  esac
}

# Refuses a root without the folders that this script writes to, and the real one to those who may not write there.
# $1 is the script's name in the state file, the rest are folders.
check_root() {
  local name=$1 folder
  shift
  for folder in "$@"; do
    [ -d "$root/$folder" ] || complain "$root is not a root of a Linux system: it has no folder $folder"
  done
  root=$(cd "$root" && pwd -P)
  if [ "$root" = / ] && ! $dry_run && [ "$(id -u)" -ne 0 ]; then
    complain "only root can do this; --dry-run shows what would be done"
  fi
  root=${root%/}
  state=${state:-$root/var/lib/foreshadow/tuning-$name.state}
}

want() {
  wanted_paths+=("$1")
  wanted_values+=("$2")
}

# Shows a mask of CPUs as the kernel does, without leading zeros and commas, so that masks can be compared.
plain() {
  local path=$1 value=$2
  case $path in
    *_cpus)
      value=${value//,/}
      value=${value#"${value%%[!0]*}"}
      echo "${value:-0}"
      ;;
    *) echo "$value" ;;
  esac
}

# Writes one value. The kernel refuses some (interrupts that the driver manages itself).
put() {
  { echo "$2" > "$root/$1"; } 2> /dev/null && return
  echo "$(basename "$0"): /$1 cannot be set to $2" >&2
  return 1
}

# Writes the lines given as arguments into the state file as a whole, or removes it if there are none.
save() {
  if [ $# -eq 0 ]; then
    rm -f "$state"
    return
  fi
  mkdir -p "$(dirname "$state")"
  { echo "$STATE_HEAD"; printf '%s\n' "$@"; } > "$state.new"
  mv "$state.new" "$state"
}

readonly STATE_HEAD='# foreshadow tuning, v1: path, value before, value after'

# Reads the state file into `ledger`, path -> "before<TAB>after". A line that this script would not have written is refused:
# its path is written to as root.
load() {
  declare -gA ledger=()
  [ -e "$state" ] || return 0
  local head path before after rest
  {
    read -r head || true
    [ "$head" = "$STATE_HEAD" ] || complain "$state is not a state file of these scripts"
    while IFS=$'\t' read -r path before after rest; do
      case /$path/ in
        */../* | */./* | *//*) complain "$state names the path $path" ;;
        /proc/sys/*/ | /proc/irq/*/ | /sys/class/net/*/) ;;
        *) complain "$state names the path $path" ;;
      esac
      [ -n "$after" ] && [ -z "$rest" ] || complain "$state: the line of $path is broken"
      ledger[$path]="$before"$'\t'"$after"
    done
  } < "$state"
}

ledger_lines() {
  local path
  lines=()
  for path in "${!ledger[@]}"; do
    lines+=("$path"$'\t'"${ledger[$path]}")
  done
}

settle() {
  load
  local i path value current before failed=0
  local due=()
  for i in "${!wanted_paths[@]}"; do
    path=${wanted_paths[i]}
    value=${wanted_values[i]}
    current=$(cat "$root/$path")
    [ "$(plain "$path" "$current")" != "$(plain "$path" "$value")" ] || continue
    echo "/$path: $current -> $value"
    before=$current
    [ -z "${ledger[$path]:-}" ] || before=${ledger[$path]%%$'\t'*}
    ledger[$path]="$before"$'\t'"$value"
    due+=("$i")
  done
  if [ ${#due[@]} -eq 0 ]; then
    echo "nothing to change"
    return
  fi
  if $dry_run; then
    echo "dry run: nothing was changed"
    return
  fi
  ledger_lines
  save "${lines[@]}"
  for i in "${due[@]}"; do
    put "${wanted_paths[i]}" "${wanted_values[i]}" || failed=1
  done
  echo "values before are in $state; --restore sets them back"
  return $failed
}

restore() {
  [ -e "$state" ] || complain "there is nothing to restore: no $state"
  load
  local path before after current failed=0
  for path in "${!ledger[@]}"; do
    IFS=$'\t' read -r before after <<< "${ledger[$path]}"
    current=$(cat "$root/$path" 2> /dev/null) || current=
    if [ -z "$current" ]; then
      echo "/$path: is not there any more"
    elif [ "$(plain "$path" "$current")" = "$(plain "$path" "$before")" ]; then
      :
    elif [ "$(plain "$path" "$current")" != "$(plain "$path" "$after")" ]; then
      echo "/$path: left at $current, which is not ours"
    else
      echo "/$path: $current -> $before"
      # What cannot be set back stays in the state file.
      $dry_run || put "$path" "$before" || { failed=1; continue; }
    fi
    unset "ledger[$path]"
  done
  if $dry_run; then
    echo "dry run: nothing was changed"
    return
  fi
  ledger_lines
  save "${lines[@]}"
  return $failed
}
