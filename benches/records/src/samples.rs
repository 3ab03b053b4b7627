//! Records and stages for the tests.

use super::schema::{Kernels, Record, Stage, Status};

/// A record with one row, of a card called `name` or without a card.
pub fn record(name: Option<&str>, date: &str) -> Record {
    let device = name.map(|name| {
        serde_json::json!({
            "name": name, "compute_capability": [9, 0], "multiprocessors": 132,
            "memory_bytes": 1u64 << 37, "cache_bytes": 1 << 26, "cuda": [13, 0],
        })
    });
    let times = serde_json::json!({"median": 2e-3, "low": 1e-3, "high": 3e-3, "samples": 20});
    serde_json::from_value(serde_json::json!({
        "schema": 1, "date": date,
        "build": {"commit": "0123456789abcdef", "modified": false, "rustc": "1.95.0"},
        "nvcc": "13.0.88",
        "machine": {
            "processor": "a CPU", "cores": 2, "device": device,
            "no_device": null, "driver": null, "clocks": null,
        },
        "stages": [], "verify": null,
        "rows": [{
            "by": "infonce 0.1.0", "work": "InfoNCE", "wanted": "forward", "shape": "N=2 M=2 D=2",
            "dtype": "bf16", "flops": 4e11, "bytes": 2e9, "cold": times, "warm": null,
            "measure": {"what": "product", "rate": 8e14, "samples": 20},
            "extra_bytes": 1048576, "error": null, "reason": null,
        }],
    }))
    .unwrap()
}

/// A stage that launched kernels in tests that passed and in tests that failed.
pub fn stage(name: &str, status: Status, passed: &[&str], failed: &[&str]) -> Stage {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Stage {
        name: name.into(),
        command: String::new(),
        status,
        reason: None,
        seconds: 1.0,
        limit_seconds: 1.0,
        tests: None,
        kernels: Some(Kernels {
            passed: owned(passed),
            failed: owned(failed),
        }),
    }
}
