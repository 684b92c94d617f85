# What all modules share: warnings, sanitizers, and the one function that declares a module.

add_library(supernode_build_flags INTERFACE)
target_compile_options(supernode_build_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
  $<$<BOOL:${SUPERNODE_WERROR}>:-Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 warns falsely about every `"text" + std::string` (GCC bug 105329).
  target_compile_options(supernode_build_flags INTERFACE -Wno-restrict)
endif()

if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # Notes about how GCC 4.6 passed arguments.
  target_compile_options(supernode_build_flags INTERFACE -Wno-psabi)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 14)
  # GCC 14 warns falsely of an optional that is filled anew after reset().
  target_compile_options(supernode_build_flags INTERFACE -Wno-maybe-uninitialized)
endif()

# Every target of ours links this, so that all code of one program is instrumented alike.
add_library(supernode_sanitizers INTERFACE)
target_link_libraries(supernode_build_flags INTERFACE supernode_sanitizers)
if(SUPERNODE_SANITIZE)
  target_compile_options(supernode_sanitizers INTERFACE
    -fsanitize=${SUPERNODE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all
    # GCC's uninitialised-use analysis does not see through the sanitizers' instrumentation, even in its own <regex>.
    -Wno-maybe-uninitialized)
  target_link_options(supernode_sanitizers INTERFACE -fsanitize=${SUPERNODE_SANITIZE})
endif()

# supernode_module(<name> [FACE] SOURCES ... [PUBLIC ...] [PRIVATE ...])
# One static library, `supernode_<name>` with the alias `supernode::<name>`. With FACE the headers in this folder are
# the module's face: what other modules may include; the target `all_verify_interface_header_sets` compiles each alone.
function(supernode_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "FACE" "" "SOURCES;PUBLIC;PRIVATE")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "supernode_module(${name}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
  endif()
  set(target supernode_${name})
  add_library(${target} STATIC ${arg_SOURCES})
  add_library(supernode::${name} ALIAS ${target})
  target_include_directories(${target} PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>")
  if(arg_FACE)
    file(GLOB face CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.hpp")
    target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}" FILES ${face})
    set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
  endif()
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  target_link_libraries(${target} PUBLIC ${arg_PUBLIC} PRIVATE ${arg_PRIVATE} $<BUILD_INTERFACE:supernode_build_flags>)
endfunction()
