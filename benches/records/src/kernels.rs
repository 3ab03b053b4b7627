//! The tables of kernels: what each is built with (kernels/README.md), and what has run on which card
//! (docs/hardware.md).

use std::collections::BTreeSet;

use super::list::{Kernel, List};
use super::schema::{Record, Row, Stage, Status};
use super::table::{Columns, duration};

/// Stages of `benches/packed/run.sh` whose tests compare a kernel's results, and those of the sanitizers.
const CORRECT: [&str; 3] = ["device", "conformance-Hopper", "conformance-portable"];
const CLEAN: [&str; 3] = ["memcheck", "racecheck", "synccheck"];

/// The table of kernels/README.md: a line for each row of kernels/list.h, whose kernels differ in their types alone.
/// Registers, spills and blocks come from the kernels in this program. Without the feature `cuda`, or from another
/// release of nvcc, they are copied from `before`, the present document.
pub fn table(list: &List, before: &str) -> String {
    let mut text = String::from(TABLE);
    let is_row = |a: &Kernel, b: &Kernel| a.label("T") == b.label("T") && a.values == b.values;
    for kernels in list.kernels.chunk_by(is_row) {
        let kernel = &kernels[0];
        let types: Vec<&str> = kernels.iter().map(|kernel| kernel.arithmetic).collect();
        let name = match types[..] {
            [_] => kernel.name.clone(),
            _ => kernel.label(&format!("{{{}}}", types.join(","))),
        };
        let [rows, columns, threads, stages, shared] =
            ["rows", "columns", "threads", "stages", "shared_bytes"].map(|it| kernel.value(it));
        let (tile, stages) = match rows {
            0 => ("–".into(), "–".into()),
            _ => (format!("{rows} × {columns}"), stages.to_string()),
        };
        let start = format!("| `{name}` |");
        let compiled = compiled(kernels).unwrap_or_else(|| {
            let old = before.lines().find(|line| line.starts_with(&start));
            let cells: Vec<&str> = old.map_or(Vec::new(), |line| line.split(" | ").collect());
            cells.get(6..).unwrap_or_default().join(" | ")
        });
        let source = &kernel.source;
        text +=
            &format!("{start} {source} | {tile} | {threads} | {stages} | {shared} | {compiled}\n");
    }
    text
}

/// Registers a thread, spilled bytes a thread and blocks per SM, on sm_80 / sm_90a; one value for each type where they
/// differ.
#[cfg(feature = "cuda")]
fn compiled(kernels: &[Kernel]) -> Option<String> {
    use infonce::cuda::KernelResources;
    if infonce::cuda::compiler() != Some("13.0.88") {
        return None;
    }
    let on = |architecture: &str, number: fn(&Kernel, &KernelResources) -> u32| {
        let of_type = |kernel: &Kernel| {
            let mut all = infonce::cuda::kernels().iter();
            let is_it =
                |it: &&KernelResources| it.kernel == kernel.name && it.architecture == architecture;
            all.find(is_it)
                .map(|resources| number(kernel, resources).to_string())
        };
        let cells: Vec<String> = kernels.iter().filter_map(of_type).collect();
        match &cells[..] {
            [] => "–".into(),
            [first, others @ ..] if others.iter().all(|other| other == first) => first.clone(),
            _ => cells.join(", "),
        }
    };
    let cell = |number| format!("{} / {}", on("sm_80", number), on("sm_90a", number));
    let registers = cell(|_, resources| resources.registers);
    let spilled = cell(|_, resources| resources.spill_stores + resources.spill_loads);
    Some(format!("{registers} | {spilled} | {} |", cell(blocks)))
}

#[cfg(not(feature = "cuda"))]
fn compiled(_: &[Kernel]) -> Option<String> {
    None
}

/// Blocks that fit an SM at a time. An SM has 4 × 16,384 registers, which a warp takes in units of 256; 164 KiB of
/// shared memory (sm_90: 228 KiB), of which a block takes 1 KiB more than it asks for; 2,048 threads; 32 blocks.
#[cfg(feature = "cuda")]
fn blocks(kernel: &Kernel, resources: &infonce::cuda::KernelResources) -> u32 {
    let [threads, shared] = ["threads", "shared_bytes"].map(|it| kernel.value(it));
    let warps = 4 * (16_384 / (32 * resources.registers).next_multiple_of(256));
    let memory = match resources.architecture {
        "sm_80" => 164 << 10,
        _ => 228 << 10,
    };
    let by_registers = warps / (threads / 32);
    by_registers
        .min(memory / (shared + 1024))
        .min(2048 / threads)
        .min(32)
}

/// What is above the table's lines.
const TABLE: &str = "\
*Tile*: rows × columns of logits or of a product; of the fused gradients, owner rows × streamed rows. *Shared bytes*: \
dynamic. *Registers*: of a thread, by nvcc 13.0.88, on sm_80 / sm_90a; where blocks are of three warpgroups, what they start with, of \
which those that multiply have 232 then. *Blocks per SM*: that fit at a time.

| kernel | source | tile | threads | stages | shared bytes | registers | spilled bytes | blocks per SM |
|---|---|---|---:|---:|---:|---:|---:|---:|
";

/// The table of docs/hardware.md: a line for each kernel and card, first the kernels that no card has run. `records`:
/// of cards, in order of their dates.
pub fn markdown(names: &[&str], records: &[Record]) -> String {
    let cards: BTreeSet<&str> = records.iter().filter_map(Record::card).collect();
    let (mut never, mut unseen, mut seen) = (0, String::new(), String::new());
    for name in names {
        let before = seen.len();
        for card in &cards {
            let is_its = |record: &&Record| record.card() == Some(card);
            let records: Vec<&Record> = records.iter().filter(is_its).collect();
            seen.extend(line(name, card, &records));
        }
        if seen.len() == before {
            never += 1;
            unseen += &format!("| `{name}` | never on a card | | | | | |\n");
        }
    }
    format!(
        "{never} of {} kernels have never run on a card.\n\n\
         | kernel | card | correct since | sanitizers clean since | time | of | ratio of the whole |\n\
         |---|---|---|---|---:|---|---:|\n{unseen}{seen}",
        names.len(),
    )
}

/// What a card's records say of a kernel, if anything.
fn line(name: &str, card: &str, records: &[&Record]) -> Option<String> {
    let correct = since(records, |record| is_correct(name, record), "wrong at");
    let clean = since(records, |record| is_clean(name, record), "not clean at");
    let time = records
        .iter()
        .rev()
        .find_map(|record| longest(name, record));
    if correct.is_none() && clean.is_none() && time.is_none() {
        return None;
    }
    let not_yet = || "not yet".to_owned();
    let [time, of, ratio] = time.map_or([const { String::new() }; 3], |(seconds, row)| {
        let columns = Columns::of(row);
        [duration(seconds), columns.name, columns.ratio]
    });
    Some(format!(
        "| `{name}` | {card} | {} | {} | {time} | {of} | {ratio} |\n",
        correct.unwrap_or_else(not_yet),
        clean.unwrap_or_else(not_yet),
    ))
}

/// The first commit from which on every verdict is true; `otherwise` and the commit where the last verdict is false.
/// Records without a verdict do not count.
fn since(
    records: &[&Record],
    verdict: impl Fn(&Record) -> Option<bool>,
    otherwise: &str,
) -> Option<String> {
    let mut first = None;
    for record in records.iter().rev() {
        let build = &record.build;
        let changes = if build.modified { ", with changes" } else { "" };
        let commit = build.commit.get(..12).unwrap_or(&build.commit);
        match verdict(record) {
            Some(true) => first = Some(format!("{commit}{changes}")),
            Some(false) if first.is_none() => {
                return Some(format!("{otherwise} {commit}{changes}"));
            }
            Some(false) => break,
            None => {}
        }
    }
    first
}

/// Whether a stage launched a kernel in a test that passed, and in one that failed.
fn launched(stage: &Stage, name: &str) -> [bool; 2] {
    let has = |names: &[String]| names.iter().any(|other| other == name);
    let kernels = stage.kernels.as_ref();
    kernels.map_or([false; 2], |of| [has(&of.passed), has(&of.failed)])
}

/// Whether all tests passed that launched the kernel and compare results; `None` where no such test ran.
fn is_correct(name: &str, record: &Record) -> Option<bool> {
    let stages = record.stages.iter();
    let comparing = stages.filter(|stage| CORRECT.contains(&&*stage.name));
    let all = comparing.map(|stage| launched(stage, name));
    let [passed, failed] = all.fold([false; 2], |a, b| [a[0] || b[0], a[1] || b[1]]);
    (passed || failed).then_some(!failed)
}

/// `Some(true)` when the kernel ran under each sanitizer and all three stages passed. `Some(false)` when a stage that
/// ran it failed: a sanitizer's stage does not say which kernel is to blame.
fn is_clean(name: &str, record: &Record) -> Option<bool> {
    let ran =
        |stage: &&Stage| CLEAN.contains(&&*stage.name) && launched(stage, name).contains(&true);
    let stages = record.stages.iter().filter(ran).map(|stage| stage.status);
    let stages: Vec<Status> = stages.collect();
    if stages.contains(&Status::Failed) {
        return Some(false);
    }
    (stages == [Status::Passed; CLEAN.len()]).then_some(true)
}

/// The most seconds of a kernel in any row of a record, and that row.
fn longest<'a>(name: &str, record: &'a Record) -> Option<(f64, &'a Row)> {
    let of_row = |row: &'a Row| {
        let kernel = row.kernels.iter().find(|kernel| kernel.kernel == name)?;
        Some((kernel.seconds?, row))
    };
    let times = record.rows.iter().filter_map(of_row);
    times.max_by(|a, b| a.0.total_cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{record, stage};
    use super::super::schema::KernelTime;
    use super::*;

    fn on(day: u32, commit: &str, stages: Vec<Stage>) -> Record {
        let mut record = record(Some("A"), &format!("2026-01-{day:02}T00:00:00Z"));
        record.build.commit = commit.into();
        record.stages = stages;
        record
    }

    #[test]
    fn kernels_of_a_row_share_a_line_and_keep_what_nvcc_said() {
        let text = "#define TILE(BUILD, NAME) INFONCE_16_BIT(BUILD, NAME, 64, 128, 32, 2, 256, 1, 1, 512)\n\
                    TILE(INFONCE_ROW, dot)  // a/b.cu\n";
        let list = super::super::list::parse(text).unwrap();
        let start = "| `dot_{bf16,f16}_64` | a/b.cu | 128 × 32 | 256 | 2 | 512 | ";
        let line = table(&list, &format!("{start}1 / 2 | 0 / 0 | 1 / 1 |\n"));
        assert!(line.contains(start), "{line}");
        #[cfg(not(feature = "cuda"))]
        assert!(line.ends_with("| 1 / 2 | 0 / 0 | 1 / 1 |\n"), "{line}");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn as_many_blocks_fit_hopper_as_the_list_says() {
        let list = super::super::list::parse(include_str!("../../../kernels/list.h")).unwrap();
        for kernel in list
            .kernels
            .iter()
            .filter(|kernel| kernel.value("resident") > 0)
        {
            let mut all = infonce::cuda::kernels().iter();
            let built = all.find(|it| it.kernel == kernel.name && it.architecture == "sm_90a");
            let built = built.map(|resources| blocks(kernel, resources));
            assert_eq!(built, Some(kernel.value("resident")), "{kernel:?}");
        }
    }

    #[test]
    fn without_a_record_every_kernel_was_never_on_a_card() {
        let text = markdown(&["a", "b"], &[]);
        assert!(text.starts_with("2 of 2 kernels have never run on a card."));
        assert!(
            text.contains("| `a` | never on a card |")
                && text.contains("| `b` | never on a card |")
        );
    }

    #[test]
    fn a_kernel_is_correct_since_the_first_record_after_the_last_that_says_otherwise() {
        use Status::{Failed, Passed};
        let portable = "conformance-portable";
        let mut records = vec![
            on(1, "first", vec![stage(portable, Passed, &["a", "b"], &[])]),
            on(
                2,
                "second",
                vec![stage(portable, Failed, &["a", "b"], &["a"])],
            ),
            on(3, "third", vec![stage(portable, Passed, &["a"], &[])]),
            on(4, "fourth", vec![stage("device", Passed, &["a"], &[])]),
            on(5, "fifth", vec![stage("bench", Passed, &["c"], &[])]),
        ];
        let text = markdown(&["c", "a", "b"], &records);
        assert!(text.contains("| `a` | A | third | not yet |"), "{text}");
        assert!(text.contains("| `b` | A | first | not yet |"), "{text}");
        // Kernels that no card has run come first.
        assert!(text.find("`c`") < text.find("`a`"), "{text}");
        records.truncate(2);
        let text = markdown(&["a"], &records);
        assert!(text.contains("| wrong at second |"), "{text}");
    }

    #[test]
    fn a_kernel_is_clean_when_all_three_checkers_ended_well_over_it() {
        use Status::{Failed, Passed, TimedOut};
        let checked = |race: Status| {
            vec![
                stage("memcheck", Passed, &["a", "b"], &[]),
                stage("racecheck", race, &["a"], &[]),
                stage("synccheck", Passed, &["a", "b"], &[]),
            ]
        };
        let clean = |race| is_clean("a", &on(1, "x", checked(race)));
        assert_eq!(clean(Passed), Some(true));
        assert_eq!(clean(Failed), Some(false));
        assert_eq!(clean(TimedOut), None);
        assert_eq!(is_clean("b", &on(1, "x", checked(Passed))), None);
    }

    #[test]
    fn its_time_is_that_of_the_row_where_it_takes_longest() {
        let mut record = on(1, "x", Vec::new());
        let mut row = record.rows[0].clone();
        row.shape = "N=4 M=4 D=4".into();
        record.rows.push(row);
        for (row, seconds) in record.rows.iter_mut().zip([1e-3, 2e-3]) {
            row.kernels.push(KernelTime {
                kernel: "a".into(),
                seconds: Some(seconds),
            });
        }
        let text = markdown(&["a"], &[record]);
        let end =
            "| not yet | not yet | 2.00 ms | InfoNCE forward N=4 M=4 D=4 bf16 | 0.25 of cuBLAS |";
        assert!(text.contains(end), "{text}");
    }
}
