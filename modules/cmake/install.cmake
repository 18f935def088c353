# Installs what was built where others can use it, independent of the build and the source folder:
#
#   cmake --install build --prefix FOLDER
#
#   FOLDER/env   FOLDER/jobscripts   FOLDER/modules   FOLDER/modulefiles-tcl
#
# A virtual environment cannot just be copied: its scripts name their interpreter by its full path, and
# the package is linked to the source folder. So a new one is made, the packages are copied into it
# (compiled Horovod finds its libraries relative to itself), scripts are rewritten, and the package is
# installed for good. Nothing is downloaded.
cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/site.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/render.cmake)
if(NOT "$ENV{DESTDIR}" STREQUAL "")
  message(FATAL_ERROR "DESTDIR = '$ENV{DESTDIR}': the environment holds full paths; use --prefix alone.")
endif()

if(PREFIX MATCHES " ")
  message(FATAL_ERROR "'${PREFIX}': has a space, which the first line of a script cannot hold.")
endif()

set(from ${BUILD}/env)
set(to ${PREFIX}/env)
if(NOT EXISTS ${from}/stamps/package)
  message(FATAL_ERROR "${from}: not built; run `cmake --build ${BUILD} -t env` first.")
endif()
if(EXISTS ${to} AND NOT EXISTS ${to}/pyvenv.cfg)
  message(FATAL_ERROR "${to}: exists and is no virtual environment; choose another --prefix.")
endif()
if(to STREQUAL from)
  message(FATAL_ERROR "${PREFIX}: is the build folder; choose another --prefix.")
endif()

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

message(STATUS "Installing: ${to}")
file(REMOVE_RECURSE ${to})
file(REAL_PATH ${from}/bin/python base_python)
run(${base_python} -m venv --without-pip ${to})

# The parts of an environment that belong to its place are new; all else is copied.
file(GLOB copied RELATIVE ${from} ${from}/*)
list(REMOVE_ITEM copied bin lib64 pyvenv.cfg stamps)
foreach(item IN LISTS copied)
  file(COPY ${from}/${item} DESTINATION ${to}
    REGEX "/site-packages/(__editable__.*hpc_bnn.*|hpc_bnn-.*)$" EXCLUDE)
endforeach()
file(GLOB scripts RELATIVE ${from}/bin ${from}/bin/*)
list(FILTER scripts EXCLUDE REGEX "^(python.*|[Aa]ctivate.*|hpc-bnn)$")
foreach(script IN LISTS scripts)
  file(COPY ${from}/bin/${script} DESTINATION ${to}/bin)
  file(READ ${to}/bin/${script} start LIMIT 2 HEX)
  if(start STREQUAL "2321")   # #!: text
    file(READ ${to}/bin/${script} text)
    string(REPLACE ${from}/ ${to}/ text "${text}")
    file(WRITE ${to}/bin/${script} "${text}")
  endif()
endforeach()

# From a copy of the sources: setuptools leaves its work in the folder that it builds.
set(sources ${BUILD}/install-sources)
file(REMOVE_RECURSE ${sources})
file(COPY ${HPC_BNN_SOURCE}/setup.py ${HPC_BNN_SOURCE}/README.md ${HPC_BNN_SOURCE}/LICENSE
  ${HPC_BNN_SOURCE}/hpc_bnn DESTINATION ${sources}
  PATTERN __pycache__ EXCLUDE PATTERN "*.so" EXCLUDE)
run(${to}/bin/python -m pip --disable-pip-version-check install -qq --no-deps --no-index
  --no-build-isolation --use-pep517 ${sources})
file(REMOVE_RECURSE ${sources})

render_site(${PREFIX})
message(STATUS "Installed. To use it: module use ${PREFIX}/modules (environment-modules: "
  "${PREFIX}/modulefiles-tcl); module load hpc_bnn")
