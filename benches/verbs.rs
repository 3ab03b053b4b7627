//! Times the verbs on the CPU: normalise and its gradient, momentum update, top-k, and every loss of the table at the
//! shapes of training.
//!
//! `cargo bench --bench verbs -- --quick`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use infonce::losses::{Layout, TABLE};
use infonce::{
    CpuEngine, Engine, Gradients, Inputs, MomentumTensor, Positives, Rows, RowsMut, Work,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn uniform(count: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(count as u64);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn unit_rows(rows: usize, dim: usize) -> Vec<f32> {
    let x = uniform(rows * dim);
    let mut y = vec![0.0; rows * dim];
    let (from, to) = (Rows::new(&x, rows, dim), RowsMut::new(&mut y, rows, dim));
    CpuEngine::new()
        .normalize(
            from.expect("a shape"),
            to.expect("a shape"),
            &mut vec![0.0; rows],
            1e-12,
        )
        .expect("legal arguments");
    y
}

fn row_wise(criterion: &mut Criterion) {
    let engine = CpuEngine::new();
    let (rows, dim) = (65_536, 256);
    let x = uniform(rows * dim);
    let (mut y, mut dx, mut norms) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; rows]);
    let mut group = criterion.benchmark_group("row-wise, 65,536 x 256 f32");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(8 * x.len() as u64));
    group.bench_function("normalize", |b| {
        b.iter(|| {
            let x = Rows::new(&x, rows, dim).expect("a shape");
            let y = RowsMut::new(&mut y, rows, dim).expect("a shape");
            engine
                .normalize(x, y, &mut norms, 1e-12)
                .expect("legal arguments");
        });
    });
    group.throughput(Throughput::Bytes(12 * x.len() as u64));
    group.bench_function("normalize_backward", |b| {
        b.iter(|| {
            let y = Rows::new(&y, rows, dim).expect("a shape");
            let dy = Rows::new(&x, rows, dim).expect("a shape");
            let dx = RowsMut::new(&mut dx, rows, dim).expect("a shape");
            engine
                .normalize_backward(y, &norms, dy, dx, 1e-12)
                .expect("legal arguments");
        });
    });
    group.bench_function("momentum_update", |b| {
        b.iter(|| {
            let mut tensors = [MomentumTensor {
                query: x.as_slice(),
                key: dx.as_mut_slice(),
                shadow: None,
            }];
            engine
                .momentum_update(0.99, &mut tensors)
                .expect("legal arguments");
        });
    });
    group.throughput(Throughput::Bytes(8 * x.len() as u64));
    group.bench_function("copy, for comparison", |b| b.iter(|| y.copy_from_slice(&x)));
    group.finish();
}

/// Throughput is in useful FLOPs: "elem/s" reads as FLOP/s.
fn losses(criterion: &mut Criterion) {
    let engine = CpuEngine::new();
    let mut group = criterion.benchmark_group("value and gradient, f32, FLOP");
    group.sample_size(10);
    let (q, k) = (unit_rows(4096, 128), unit_rows(4096, 128));
    let queue = unit_rows(65_536, 128);
    // Two views of two images of each class.
    let labels: Vec<u32> = (0..4096).map(|i| i % 1024).collect();
    for loss in TABLE {
        let contrast = (loss.at)(loss.temperature).expect("the loss's own temperature");
        let (n, m, inputs) = match contrast.layout() {
            Layout::Shared => ("2N", "", Inputs::Shared { z: rows(&q, 4096) }),
            Layout::Labelled => {
                let positives = Positives::Labels {
                    anchors: &labels[..],
                    candidates: &labels[..],
                };
                let z = rows(&q, 4096);
                ("N", "", Inputs::Labelled { z, positives })
            }
            Layout::Pair => ("N=M", "", Inputs::pair(rows(&q, 4096), rows(&k, 4096))),
            Layout::Queue => {
                let inputs = Inputs::Queue {
                    q: rows(&q[..256 * 128], 256),
                    own_key: rows(&k[..256 * 128], 256),
                    queue: rows(&queue, 65_536),
                };
                ("N", " M=65536", inputs)
            }
            // DINO's head.
            Layout::Targets => {
                let inputs = Inputs::Targets {
                    q: rows(&q[..256 * 128], 256),
                    k: rows(&queue, 65_536),
                    target_q: rows(&k[..256 * 128], 256),
                    target_k: rows(&queue, 65_536),
                };
                ("N", " M=65536", inputs)
            }
        };
        let problem = contrast.on(inputs).expect("legal inputs");
        let (shape, dk) = (problem.shape(), contrast.has_dk());
        let flops = contrast.useful_flops(shape, Work::ValueAndGrad { dk });
        let product = shape.anchors as f64 * shape.candidates as f64 * shape.dim as f64;
        let square = if contrast.is_shared() { "nn" } else { "NM" };
        let name = format!(
            "{} {n}={}{m} D={} ({}{square}D)",
            loss.name,
            shape.anchors,
            shape.dim,
            flops / product,
        );
        let (n, m, d) = (shape.anchors, shape.candidates, shape.dim);
        let (mut dq, mut dk_elements) = (vec![0.0f32; n * d], vec![0.0f32; m * d]);
        group.throughput(Throughput::Elements(flops as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let to_dk = |dk| RowsMut::new(dk, m, d).expect("a shape");
                let gradients = Gradients::new(
                    RowsMut::new(&mut dq, n, d).expect("a shape"),
                    dk.then(|| to_dk(&mut dk_elements)),
                );
                let value = engine.value_and_grad(&problem, 1.0, gradients);
                value.expect("legal inputs")
            });
        });
    }
    let (queries, bank) = (rows(&q[..1024 * 128], 1024), rows(&queue, 65_536));
    group.throughput(Throughput::Elements(2 * 1024 * 65_536 * 128));
    group.bench_function("top-200 of N=1024 M=65536 D=128 (2NMD)", |b| {
        b.iter(|| {
            engine
                .top_k(queries, bank, 200, false)
                .expect("legal arguments")
        });
    });
    group.finish();
}

fn rows(data: &[f32], rows: usize) -> Rows<'_, f32> {
    Rows::new(data, rows, 128).expect("a shape")
}

criterion_group!(benches, row_wise, losses);
criterion_main!(benches);
