# Sourced by quickstart, test and users' shells: what must be installed, how to build, and the environment that Open MPI
# wants here. Defines functions and variables only; runs nothing.

supernode_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Package of Debian 12 and 13 : a program or header that shows it is there (for systems without dpkg); a|b: either.
supernode_packages="
g++:g++
cmake:cmake
ninja-build:ninja
ccache:ccache
git:git
python3:python3
openmpi-bin:mpirun
libopenmpi-dev:mpi.h
libhwloc-dev:hwloc.h
libhdf5-dev:hdf5.h
libboost-program-options-dev:boost/program_options.hpp
catch2:catch2/catch.hpp|catch2/catch_test_macros.hpp
libdnnl-dev:oneapi/dnnl/dnnl.hpp
nlohmann-json3-dev:nlohmann/json.hpp
libfmt-dev:fmt/format.h
libspdlog-dev:spdlog/spdlog.h
libxxhash-dev:xxhash.h
libhwy-dev:hwy/highway.h
gnuplot-nox:gnuplot
"

say() { printf '\n== %s\n' "$*"; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 3; }

is_known_debian() {
  [ -r /etc/os-release ] &&
    (. /etc/os-release; [ "${ID:-}" = debian ] && { [ "${VERSION_ID:-}" = 12 ] || [ "${VERSION_ID:-}" = 13 ]; })
}

# Whether an MPI is here already, of whatever kind: another one beside it would take its place.
has_mpi() { command -v mpicxx > /dev/null && command -v "${MPIEXEC_EXECUTABLE:-mpirun}" > /dev/null; }

is_here() {  # program or header
  case $1 in
    *\|*) is_here "${1%%|*}" || is_here "${1#*|}" ;;
    *.h|*.hpp)
      local folder
      for folder in /usr/include /usr/local/include /usr/lib/*/openmpi/include /usr/include/hdf5/serial /usr/include/hdf5/openmpi \
          /usr/lib64/*/include /opt/*/include ${CPATH:+${CPATH//:/ }} \
          $(printf '%s' "${CMAKE_PREFIX_PATH:-}" | tr ':;' '\n\n' | sed 's:$:/include:'); do
        [ -e "$folder/$1" ] && return 0
      done
      command -v mpicxx > /dev/null && printf '#include <%s>\n' "$1" | mpicxx -x c++ -E - > /dev/null 2>&1 ;;
    *) command -v "$1" > /dev/null ;;
  esac
}

# Installs what is missing on Debian 12 and 13; elsewhere names it and stops.
ensure_packages() {
  local missing="" entry package
  for entry in $supernode_packages; do
    package=${entry%%:*}
    case $package in openmpi-bin|libopenmpi-dev) has_mpi && continue ;; esac
    if is_known_debian; then
      [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing="$missing $package"
    else
      is_here "${entry#*:}" || missing="$missing $package"
    fi
  done
  [ -z "$missing" ] && { echo "all packages are here"; return; }
  is_known_debian || fail "these packages are missing (by their Debian names); install them and start again:$missing"
  local as_root=""
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || fail "not root and no sudo; install these packages and start again:$missing"
    as_root="sudo"
  fi
  echo "installing:$missing"
  local log
  log=$(mktemp)
  if ! { $as_root apt-get -q update &&
         $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing; } \
      > "$log" 2>&1 < /dev/null; then
    tail -n 20 "$log" >&2
    fail "apt-get could not install:$missing (whole output in $log)"
  fi
  rm -f "$log"
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  cd "$supernode_root"
  cmake --preset "$preset" > "/tmp/supernode-configure.$$" 2>&1 ||
    { cat "/tmp/supernode-configure.$$" >&2; fail "configuring failed"; }
  rm -f "/tmp/supernode-configure.$$"
  cmake --build --preset "$preset" ${1:+--target "$@"} || fail "building failed"
}

# What mpirun needs: root is refused by default, and binding several jobs to the same first cores would be worse than
# none. (That more ranks than cores yield to each other, the program sees to itself; with a core each they should not.)
mpi_environment() {
  if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
  # The same of Open MPI 5.
  export PRTE_MCA_rmaps_default_mapping_policy=${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}
  export PRTE_MCA_hwloc_default_binding_policy=${PRTE_MCA_hwloc_default_binding_policy:-none}
  # Else mpirun waits two seconds after a process that ended with an error.
  export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-0}
  export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
  export PATH="$supernode_root/build/release/bin:$PATH"
}
