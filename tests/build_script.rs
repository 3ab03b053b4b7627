//! The build script: finds nvcc, reads the list of kernels and what ptxas and cuobjdump print, and compiles only what has changed.

#[path = "../build"]
#[expect(dead_code, reason = "the tests do not use all of the build script")]
mod build {
    pub mod jobs;
    pub mod layouts;
    pub mod list;
    pub mod nvcc;
    pub mod ptxas;
    pub mod sass;
    pub mod sources;
}

/// As in build.rs.
macro_rules! for_build {
    ($($item:item)*) => { $($item)* };
}
#[path = "../src/launch/params.rs"]
mod params;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use build::jobs::{self, Job};
use build::layouts::held;
use build::list;
use build::nvcc::{self, Nvcc, Search};
use build::ptxas::{self, KernelResources};
use build::sass::{self, MachineCode};
use build::sources::Sources;
use params::{CODES, LAYOUTS, Layout};
use tempfile::TempDir;

/// A folder with empty files in it.
fn tree(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        write(&root.path().join(file), "");
    }
    root
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn search(variables: &[(&'static str, PathBuf)]) -> Search {
    let variables = variables
        .iter()
        .map(|(name, value)| (*name, OsString::from(value)));
    Search {
        variables: variables.collect(),
        ..Search::default()
    }
}

fn found(search: &Search) -> PathBuf {
    search.nvcc().unwrap().path
}

#[test]
fn nvcc_is_what_the_variable_says_before_anything_else() {
    let root = tree(&["mine/nvcc-13", "bin/nvcc"]);
    let path = root.path().join("bin");
    let named = root.path().join("mine/nvcc-13");
    let search = search(&[("NVCC", named.clone()), ("PATH", path)]);
    assert_eq!(found(&search), named);
}

#[test]
fn a_variable_that_names_no_program_is_an_error() {
    let root = tree(&["bin/nvcc"]);
    let search = search(&[
        ("NVCC", "/no/such/nvcc".into()),
        ("PATH", root.path().join("bin")),
    ]);
    assert_eq!(
        search.nvcc().unwrap_err(),
        "NVCC is /no/such/nvcc, and there is no such program"
    );
}

#[test]
fn a_bare_name_in_the_variable_is_looked_for_on_the_path() {
    let root = tree(&["bin/nvcc", "bin/nvcc-12"]);
    let bin = root.path().join("bin");
    let search = search(&[("NVCC", "nvcc-12".into()), ("PATH", bin.clone())]);
    assert_eq!(found(&search), bin.join("nvcc-12"));
}

#[test]
fn path_comes_before_cuda_home_and_usual_folders() {
    let root = tree(&["bin/nvcc", "home/bin/nvcc", "local/cuda-12.9/bin/nvcc"]);
    let at = |name: &str| root.path().join(name);
    let mut search = search(&[("PATH", at("bin")), ("CUDA_HOME", at("home"))]);
    search.toolkit_parents = vec![at("local")];
    assert_eq!(found(&search), at("bin/nvcc"));
    search.variables.remove("PATH");
    assert_eq!(found(&search), at("home/bin/nvcc"));
    search.variables.remove("CUDA_HOME");
    assert_eq!(found(&search), at("local/cuda-12.9/bin/nvcc"));
}

#[test]
fn the_default_toolkit_comes_before_the_newest() {
    let root = tree(&[
        "cuda-9.2/bin/nvcc",
        "cuda-13.0/bin/nvcc",
        "cuda-12.9/bin/nvcc",
        "cudart/bin/nvcc",
    ]);
    let search = Search {
        toolkit_parents: vec![root.path().into()],
        ..Search::default()
    };
    assert_eq!(found(&search), root.path().join("cuda-13.0/bin/nvcc"));
    write(&root.path().join("cuda/bin/nvcc"), "");
    assert_eq!(found(&search), root.path().join("cuda/bin/nvcc"));
}

#[test]
fn python_environments_are_searched_last() {
    let packages = "lib/python3.12/site-packages/nvidia";
    let root = tree(&[
        &format!("active/{packages}/cu13/bin/nvcc"),
        &format!("project/.venv/{packages}/cu13/bin/nvcc"),
        "system/nvidia/cu13/bin/nvcc",
        "local/cuda/bin/nvcc",
    ]);
    let at = |name: &str| root.path().join(name);
    let mut search = search(&[("VIRTUAL_ENV", at("active"))]);
    search.projects = vec![at("project")];
    search.site_packages = vec![at("system")];
    assert_eq!(
        found(&search),
        at("active").join(packages).join("cu13/bin/nvcc")
    );
    search.variables.clear();
    assert_eq!(
        found(&search),
        at("project/.venv").join(packages).join("cu13/bin/nvcc")
    );
    search.projects.clear();
    assert_eq!(found(&search), at("system/nvidia/cu13/bin/nvcc"));
    search.toolkit_parents = vec![at("local")];
    assert_eq!(found(&search), at("local/cuda/bin/nvcc"));
}

#[test]
fn older_python_packages_have_headers_in_other_folders() {
    let root = tree(&[
        "nvidia/cuda_nvcc/bin/nvcc",
        "nvidia/cuda_runtime/include/cuda_runtime.h",
    ]);
    let search = Search {
        site_packages: vec![root.path().into()],
        ..Search::default()
    };
    let nvidia = root.path().join("nvidia");
    let expected = Nvcc {
        path: nvidia.join("cuda_nvcc/bin/nvcc"),
        includes: vec![nvidia.join("cuda_runtime/include")],
    };
    assert_eq!(search.nvcc(), Ok(expected));
}

#[test]
fn without_nvcc_one_line_says_how_to_install_it() {
    let message = Search::default().nvcc().unwrap_err();
    assert_eq!(message.lines().count(), 1);
    assert!(
        message.contains("pip install nvidia-cuda-nvcc=="),
        "{message}"
    );
}

#[test]
fn the_release_is_read_from_what_nvcc_prints() {
    let text = "nvcc: NVIDIA (R) Cuda compiler driver\nBuilt on Wed_Aug_20_01:58:59_PM_PDT_2025\n\
                Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0/compiler.36424714_0\n";
    assert_eq!(nvcc::release(text), Some((13, 0)));
    assert_eq!(nvcc::full_release(text), Some("13.0.88"));
    assert_eq!(nvcc::release("nvcc"), None);
}

/// As nvcc 13.0 prints it.
const LOG: &str = "\
ptxas info    : (C7517) warpgroup.wait is injected in around line 22004 by compiler to allow use of registers defined by GMMA in function 'normalize'
ptxas info    : (C7518) Potential Performance Loss: wgmma.mma_async instructions are serialized due to program dependence on compiler-inserted WG.DP in divergent path in the function 'normalize'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'gradient' for 'sm_80'
ptxas info    : Function properties for gradient
    440 bytes stack frame, 784 bytes spill stores, 828 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 440 bytes cumulative stack size, 368 bytes cmem[0]
ptxas info    : Compile time = 34.206 ms
ptxas info    : Compiling entry function 'normalize' for 'sm_90a'
ptxas info    : Function properties for normalize
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _Z6helperv
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 1024 bytes smem, 368 bytes cmem[0]
";

#[test]
fn resources_are_read_per_kernel_and_architecture() {
    let expected = [
        KernelResources {
            kernel: "gradient".into(),
            architecture: "sm_80".into(),
            registers: 255,
            spill_stores: 784,
            spill_loads: 828,
            stack: 440,
            ..KernelResources::default()
        },
        // The spills of a function that was not inlined count for the kernel.
        KernelResources {
            kernel: "normalize".into(),
            architecture: "sm_90a".into(),
            registers: 10,
            spill_stores: 4,
            spill_loads: 8,
            stack: 16,
            shared: 1024,
            barriers: 1,
            product_waits: 2,
            machine_code: None,
        },
    ];
    assert_eq!(ptxas::parse(LOG), expected);
    assert_eq!(ptxas::parse("nvcc warning : nothing about kernels\n"), []);
}

/// As cuobjdump prints it: a loop of two products, whose exponentials follow the first wait and the second.
const SASS: &str = "\
		Function : gradient
	.headerflags	@\"EF_CUDA_TEXMODE_UNIFIED EF_CUDA_64BIT_ADDRESS EF_CUDA_SM90\"
        /*0000*/                   LDG.E R4, desc[UR4][R2.64] ;           /* 0x0000000402047981 */
                                                                           /* 0x000fc800078e00ff */
        /*0010*/                   HGMMA.64x96x16.F32.BF16 R24, gdesc[UR4], !UPT ; /* 0x01600000041879f0 */
        /*0020*/                   HGMMA.64x128x16.F32.BF16 R72, R24, gdesc[UR8].tnspB, R72 ; /* 0x0 */
        /*0030*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;        /* 0x00008000000079c5 */
        /*0040*/                   MUFU.EX2 R5, R5 ;                      /* 0x0000000500057308 */
        /*0050*/              @!P0 MUFU.EX2 R6, R6 ;                      /* 0x0000000600067308 */
        /*0060*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;        /* 0x00008000000079c5 */
        /*0070*/                   MUFU.EX2 R7, R7 ;                      /* 0x0000000700077308 */
        /*0080*/                   LDG.E R8, desc[UR4][R2.64] ;           /* 0x0000000402047981 */
        /*0090*/               @P1 BRA 0x10 ;                             /* 0xfffffffc00fc0947 */
        /*00a0*/                   BRA 0xa0;                              /* 0xfffffffc00fc7947 */
		Function : normalize
        /*0000*/                   MUFU.EX2 R7, R7 ;                      /* 0x0000000700077308 */
";

#[test]
fn exponentials_and_loads_of_a_tile_are_counted_in_sass() {
    let expected = MachineCode {
        exponentials_beside_products: 2,
        tile_loads: 1,
    };
    assert_eq!(sass::parse(SASS), [("gradient".to_owned(), expected)]);
}

#[test]
fn a_row_of_the_list_is_a_kernel_of_each_of_its_types() {
    let list = list::parse(include_str!("../kernels/list.h")).unwrap();
    let named = |name: &str| list.kernels.iter().find(|kernel| kernel.name == name);
    let [f16, e4m3] =
        ["gradient_online_f16_128", "hopper_best_e4m3"].map(|name| named(name).unwrap());
    assert_eq!(
        (&*f16.source, f16.value("columns")),
        ("similarity/gradient.cu", 64)
    );
    assert_eq!((&*e4m3.family, e4m3.value("cluster")), ("hopper_best", 2));
    assert_eq!(named("copy_rows").unwrap().source, "rowwise/state.cu");
    assert!(list.constants.contains(&("SLAB_BYTES".into(), 128)));
}

#[test]
fn an_error_of_the_list_names_line_and_row() {
    let cases = [
        (
            "struct reduce : Plain<1024, 1> {};",
            "2 of 3 columns stand behind the name: threads min_blocks shared_bytes",
        ),
        (
            "struct reduce : Plain<WARPS * 32, 1, 0> {};",
            "threads is `WARPS * 32`, and has to be a whole number",
        ),
        (
            "INFONCE_64_BIT(BUILD, NAME, 0, 128)",
            "no macro makes rows like this",
        ),
        (
            "INFONCE_TILES(INFONCE_ROW, scores)",
            "no macro has rows for this",
        ),
        (
            "struct copy : Plain<32, 1, 0> {};",
            "there is another kernel called copy",
        ),
    ];
    for (row, reason) in cases {
        let text = format!("struct copy : Plain<32, 1, 0> {{}};  // a.cu\n    {row} \\\n");
        let expected = format!("kernels/list.h:2: `{row}`: {reason}");
        assert_eq!(list::parse(&text).unwrap_err(), expected);
    }
}

#[test]
fn sources_are_sorted_by_what_compiles_them() {
    let root = tree(&[
        "similarity/rows.cu",
        "rowwise/normalize.cu",
        "rowwise/normalize.h",
        "emulator/block.cpp",
        "emulator/planted/race.cu",
        "README.md",
    ]);
    let sources = Sources::find(root.path()).unwrap();
    let names = |paths: &[PathBuf]| {
        paths
            .iter()
            .map(|path| sources.name(path))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&sources.kernels),
        ["rowwise/normalize.cu", "similarity/rows.cu"]
    );
    assert_eq!(names(&sources.emulator), ["emulator/block.cpp"]);
    assert_eq!(names(&sources.planted), ["emulator/planted/race.cu"]);
}

#[test]
fn a_fingerprint_covers_included_headers_alone() {
    let root = tree(&["ptx/other.h"]);
    let at = |name: &str| root.path().join(name);
    write(
        &at("similarity/rows.cu"),
        "#include \"scores.h\"\n#include <cmath>\n",
    );
    write(
        &at("similarity/scores.h"),
        "#pragma once\n  #  include \"ptx/mma.h\"\n",
    );
    write(&at("ptx/mma.h"), "#include \"ptx/mma.h\"\n");
    let sources = Sources::find(root.path()).unwrap();
    let fingerprint = |settings| {
        let files = sources.files(&at("similarity/rows.cu")).unwrap();
        Sources::fingerprint(&files, settings)
    };
    let before = fingerprint("-O3");
    assert_ne!(before, fingerprint("-O2"));
    write(&at("ptx/other.h"), "// changed");
    assert_eq!(before, fingerprint("-O3"));
    write(&at("ptx/mma.h"), "// changed");
    assert_ne!(before, fingerprint("-O3"));
}

#[test]
fn a_source_asserts_the_structures_of_its_files_and_no_others() {
    let row = |name, header| Layout {
        name,
        header,
        size: 16,
        fields: &[("data", 0), ("rows", 8), ("padding", 12)],
    };
    let layouts = [row("Matrix", "tile/matrix.h"), row("Other", "tile/other.h")];
    let codes = [
        ("DTYPE_F16", "tile/matrix.h", 1),
        ("NONE", "tile/other.h", 0),
    ];
    let files = ["rowwise/state.cu", "tile/matrix.h"].map(str::to_owned);
    assert_eq!(
        held("rowwise/state.cu", &files, &layouts, &codes),
        "#include <cstddef>\n\
         #include \"rowwise/state.cu\"\n\
         static_assert(offsetof(infonce::Matrix, data) == 0, \"byte of Matrix.data: 0 in src/launch/params.rs\");\n\
         static_assert(offsetof(infonce::Matrix, rows) == 8, \"byte of Matrix.rows: 8 in src/launch/params.rs\");\n\
         static_assert(sizeof(infonce::Matrix) == 16, \"bytes of Matrix: 16 in src/launch/params.rs\");\n\
         static_assert(infonce::DTYPE_F16 == 1, \"DTYPE_F16: 1 in src/launch/params.rs\");\n"
    );
}

#[test]
fn every_structure_that_is_declared_twice_is_held_in_some_source() {
    let sources = Sources::find(Path::new("kernels")).unwrap();
    let mut held = std::collections::BTreeSet::new();
    for source in &sources.kernels {
        let files = sources.files(source).unwrap();
        held.extend(files.into_keys().map(|file| sources.name(&file)));
    }
    let layouts = LAYOUTS.iter().map(|layout| layout.header);
    for header in layouts.chain(CODES.iter().map(|code| code.1)) {
        assert!(held.contains(header), "kernels/{header}");
    }
}

/// A job whose compiler counts its calls in the file `calls`, then writes its output.
#[cfg(unix)]
fn counted(root: &Path, source: &str, fingerprint: u64, script: &str) -> Job {
    let mut command = std::process::Command::new("sh");
    let script = format!("echo {source} >>calls; {script}; echo object >\"$2\"");
    command.current_dir(root).args(["-c", &script, "sh"]);
    Job {
        source: source.into(),
        output: jobs::output(root, source, fingerprint, "o"),
        command,
    }
}

#[cfg(unix)]
#[test]
fn only_changes_are_compiled_and_old_results_removed() {
    let root = tree(&["calls"]);
    let folder = root.path().join("out");
    fs::create_dir(&folder).unwrap();
    let job = |source, fingerprint| {
        let mut job = counted(root.path(), source, fingerprint, "echo a warning >&2");
        job.output = folder.join(job.output.file_name().unwrap());
        job
    };
    let first = jobs::run(vec![job("a/b.cu", 1), job("a/a.cu", 1)]).unwrap();
    let again = jobs::run(vec![job("a/b.cu", 2), job("a/a.cu", 1)]).unwrap();
    jobs::sweep(&folder, &again).unwrap();

    let sources = |done: &[jobs::Done]| done.iter().map(|d| d.source.clone()).collect::<Vec<_>>();
    assert_eq!(sources(&first), ["a/a.cu", "a/b.cu"]);
    assert!(
        again
            .iter()
            .all(|done| done.log == "a warning\n" && done.output.is_file())
    );
    let mut calls: Vec<String> = fs::read_to_string(root.path().join("calls"))
        .unwrap()
        .lines()
        .map(Into::into)
        .collect();
    calls.sort();
    assert_eq!(calls, ["a/a.cu", "a/b.cu", "a/b.cu"]);
    assert!(!first[1].output.exists() && first[0].output.exists());
    // An object and a log of each.
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);
}

#[cfg(unix)]
#[test]
fn a_failed_compiler_leaves_no_output_and_is_quoted() {
    let root = tree(&["calls"]);
    let job = || counted(root.path(), "a.cu", 1, "echo no such thing >&2; exit 3");
    for _ in 0..2 {
        let message = jobs::run(vec![job()]).unwrap_err();
        assert!(
            message.starts_with("a.cu: exit status: 3\nno such thing"),
            "{message}"
        );
    }
    assert_eq!(
        fs::read_to_string(root.path().join("calls")).unwrap(),
        "a.cu\na.cu\n"
    );
}
