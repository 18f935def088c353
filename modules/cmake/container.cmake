# ENV = container: the target env is build/container.sif, made of build/jobscripts/container.def; everything
# else, torch, MPI and Horovod, is built inside. A Docker image of jobscripts/Dockerfile is as good.
find_program(HPC_BNN_APPTAINER NAMES apptainer singularity DOC "Builds container.sif")
if(NOT HPC_BNN_APPTAINER)
  message(FATAL_ERROR "ENV = container: no apptainer (or singularity) on PATH. Load its module, or configure where "
    "it is; without it write definition and job scripts alone: cmake -D SITE=${SITE} -D ENV=container "
    "-D OUT=FOLDER -P modules/cmake/render.cmake.")
endif()
set(image ${PROJECT_BINARY_DIR}/container.sif)
set(definition ${PROJECT_BINARY_DIR}/jobscripts/container.def)
file(GLOB_RECURSE package CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/hpc_bnn/*)
list(FILTER package EXCLUDE REGEX "/__pycache__/|\\.so$")
add_custom_command(OUTPUT ${image}
  COMMAND ${HPC_BNN_APPTAINER} build --force ${image} ${definition}
  DEPENDS ${definition} ${package}
  WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} COMMENT "build/container.sif" VERBATIM)
add_custom_target(env DEPENDS ${image})
