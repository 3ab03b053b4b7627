//! Retrieval: the best candidates of each query without a matrix of scores, in f32 and in bf16; then near-duplicates
//! within one set, where each row excludes itself.
//!
//! cargo run --example retrieval

use half::bf16;
use infonce::{CpuEngine, Element, Engine, Error, Rows, RowsMut, TopK};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 64;
const DOCUMENTS: usize = 2000;
/// The document that each query is a noisy copy of.
pub const WANTED: [usize; 3] = [31, 415, 1926];
/// Two documents; the second is a noisy copy of the first.
pub const DUPLICATES: [usize; 2] = [70, 1700];
pub const BEST: usize = 3;

fn unit_rows<T: Element>(engine: &CpuEngine, x: &[f32]) -> Result<Vec<T>, Error> {
    let rows = x.len() / DIM;
    let (mut unit, mut norms) = (vec![T::from_f32(0.0); x.len()], vec![0.0; rows]);
    let to = RowsMut::new(&mut unit, rows, DIM)?;
    engine.normalize(Rows::new(x, rows, DIM)?, to, &mut norms, 1e-12)?;
    Ok(unit)
}

/// The best documents of each query, then the best other document of each document.
pub fn run<T: Element>() -> Result<[TopK; 2], Error> {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let mut value = |bound: f32| random.random_range(-bound..bound);
    let mut documents: Vec<f32> = (0..DOCUMENTS * DIM).map(|_| value(1.0)).collect();
    let mut copy = |from: usize| -> Vec<f32> {
        let row = &documents[from * DIM..][..DIM];
        row.iter().map(|x| x + value(0.5)).collect()
    };
    let queries = WANTED.map(&mut copy).concat();
    let [of, duplicate] = DUPLICATES;
    let near = copy(of);
    documents[duplicate * DIM..][..DIM].copy_from_slice(&near);

    let engine = CpuEngine::new();
    let queries = unit_rows::<T>(&engine, &queries)?;
    let documents = unit_rows::<T>(&engine, &documents)?;
    let queries = Rows::new(&queries, WANTED.len(), DIM)?;
    let documents = Rows::new(&documents, DOCUMENTS, DIM)?;
    Ok([
        engine.top_k(queries, documents, BEST, false)?,
        engine.top_k(documents, documents, 1, true)?,
    ])
}

fn print(name: &str, [best, others]: &[TopK; 2]) {
    println!("{name}: the {BEST} best of {DOCUMENTS} documents, with their cosines");
    let rows = best.indices.chunks(BEST).zip(best.scores.chunks(BEST));
    for (wanted, (documents, cosines)) in WANTED.iter().zip(rows) {
        println!("  a noisy copy of {wanted:4} finds {documents:4?} at {cosines:.3?}");
    }
    for document in DUPLICATES {
        let (other, cosine) = (others.indices[document], others.scores[document]);
        println!("  document {document:4} is closest to {other:4}, at {cosine:.3}");
    }
}

fn main() -> Result<(), Error> {
    print("f32", &run::<f32>()?);
    print("bf16", &run::<bf16>()?);
    Ok(())
}
