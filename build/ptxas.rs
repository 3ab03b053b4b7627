//! Reads what `ptxas -v` says about each kernel: registers, spills, stack, shared memory.

use super::sass::MachineCode;

/// What one kernel takes on one architecture. Its debug text is the Rust of the crate's own `KernelResources`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelResources {
    pub kernel: String,
    pub architecture: String,
    /// Per thread.
    pub registers: u32,
    /// Bytes per thread, those of functions that were not inlined counted in.
    pub spill_stores: u32,
    pub spill_loads: u32,
    pub stack: u32,
    /// Static bytes per block; `kernels/list.h` has the dynamic ones.
    pub shared: u32,
    pub barriers: u32,
    /// Warnings that `wgmma` waits where the source does not.
    pub product_waits: u32,
    /// Of a kernel with `wgmma`, where there are tools to read it.
    pub machine_code: Option<MachineCode>,
}

/// Those warnings; ptxas prints them before the kernels.
const PRODUCT_WAITS: [&str; 3] = [
    "wgmma.mma_async instructions are serialized",
    "warpgroup.wait is injected",
    "warpgroup.arrive is injected",
];

/// The kernels in the order ptxas compiled them. Lines that say nothing about a kernel are passed over.
pub fn parse(log: &str) -> Vec<KernelResources> {
    let mut kernels: Vec<KernelResources> = Vec::new();
    let mut waiting: Vec<&str> = Vec::new();
    for line in log.lines() {
        if PRODUCT_WAITS
            .iter()
            .any(|complaint| line.contains(complaint))
        {
            waiting.extend(line.rsplit('\'').nth(1));
            continue;
        }
        if let Some((_, entry)) = line.split_once("Compiling entry function '") {
            let mut quoted = entry.split('\'');
            let kernel = quoted.next().unwrap_or_default().to_owned();
            let architecture = quoted.nth(1).unwrap_or_default().to_owned();
            let complaints = waiting.iter().filter(|&&name| name == kernel).count();
            kernels.push(KernelResources {
                product_waits: complaints as u32,
                kernel,
                architecture,
                ..KernelResources::default()
            });
            continue;
        }
        let Some(kernel) = kernels.last_mut() else {
            continue;
        };
        if line.contains("bytes spill stores") {
            kernel.stack += before(line, " bytes stack frame");
            kernel.spill_stores += before(line, " bytes spill stores");
            kernel.spill_loads += before(line, " bytes spill loads");
        } else if line.contains(" registers") {
            kernel.registers = before(line, " registers");
            kernel.barriers = before(line, " barriers");
            kernel.shared = before(line, " bytes smem");
        }
    }
    kernels
}

/// The number that stands right before `unit`; 0 where the line does not have that unit.
fn before(line: &str, unit: &str) -> u32 {
    let number = line
        .split(unit)
        .next()
        .filter(|head| head.len() < line.len());
    let digits = number.and_then(|head| head.rsplit(|c: char| !c.is_ascii_digit()).next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
