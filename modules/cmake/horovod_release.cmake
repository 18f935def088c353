# The release of Horovod that is built, pinned by the hash of its source archive; read by horovod.cmake,
# which compiles it, and by packages.cmake, which fetches it into a wheel folder.
set(horovod_version 0.28.1)
set(horovod_sha256 92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0)
