//! What has run on which card, kernel by kernel.

use super::list::{Kernel, List};
use super::schema::{Record, Row, Stage, Status};
use super::table::{Columns, duration};

/// Stages whose tests compare a kernel's results, and those that watch it: `benches/packed/run.sh`.
const CORRECT: [&str; 3] = ["device", "conformance-Hopper", "conformance-portable"];
const CLEAN: [&str; 3] = ["memcheck", "racecheck", "synccheck"];

/// The table of kernels/README.md: a line for the kernels of one row, which differ in their types alone. What nvcc
/// says is taken from `before`, the document as it stands, where this program has no kernels (feature `cuda`), or those
/// of another release.
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
        let stands = before.lines().find(|line| line.starts_with(&start));
        let cells: Vec<&str> = stands.map_or(Vec::new(), |line| line.split(" | ").collect());
        let compiled = match compiled(kernels) {
            Some(compiled) => compiled,
            None => cells.get(6..).unwrap_or_default().join(" | "),
        };
        let source = &kernel.source;
        text +=
            &format!("{start} {source} | {tile} | {threads} | {stages} | {shared} | {compiled}\n");
    }
    text
}

/// Registers, spilled bytes and blocks of an SM on both architectures, a number a type where they differ.
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

/// Blocks that fit an SM: 65,536 registers, which warps of each quarter take in units of 256; 164 KiB of shared memory,
/// on sm_90 228, of which a block takes 1 KiB more than it asked for; 2,048 threads; 32 blocks.
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

/// What stands above its lines.
const TABLE: &str = "\
*Tile*: rows × columns of logits or of a product; of the fused gradients, owner rows × streamed rows. *Shared bytes*: \
dynamic. *Registers*: of a thread, by nvcc 13.0.88, on sm_80 / sm_90a; where blocks are of three warpgroups, what they start with, of \
which those that multiply have 232 then. *Blocks per SM*: that fit at a time.

| kernel | source | tile | threads | stages | shared bytes | registers | spilled bytes | blocks per SM |
|---|---|---|---:|---:|---:|---:|---:|---:|
";

/// A line for each kernel and card, above them those that no card has run. `records`: of cards, in order
/// of their dates.
pub fn markdown(names: &[&str], records: &[Record]) -> String {
    let mut cards: Vec<&str> = records.iter().filter_map(card).collect();
    cards.sort_unstable();
    cards.dedup();
    let lines: Vec<(bool, String)> = names
        .iter()
        .flat_map(|name| {
            let of = |of_card: &&str| {
                let is_its = |record: &&Record| card(record) == Some(*of_card);
                let records: Vec<&Record> = records.iter().filter(is_its).collect();
                line(name, of_card, &records)
            };
            let seen: Vec<(bool, String)> = cards
                .iter()
                .filter_map(of)
                .map(|line| (true, line))
                .collect();
            match seen.is_empty() {
                true => vec![(false, format!("| `{name}` | never on a card | | | | | |\n"))],
                false => seen,
            }
        })
        .collect();
    let never = lines.iter().filter(|(seen, _)| !seen).count();
    let of = |wanted: bool| {
        let chosen = lines.iter().filter(move |(seen, _)| *seen == wanted);
        chosen.map(|(_, line)| line.as_str()).collect::<String>()
    };
    format!(
        "{never} of {} kernels have never run on a card.\n\n\
         | kernel | card | correct since | sanitizers clean since | time | of | ratio of the whole |\n\
         |---|---|---|---|---:|---|---:|\n{}{}",
        names.len(),
        of(false),
        of(true)
    )
}

fn card(record: &Record) -> Option<&str> {
    record.machine.device.as_ref().map(|device| &*device.name)
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

/// The first commit after which no record says otherwise; records that say nothing do not count.
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

fn is_correct(name: &str, record: &Record) -> Option<bool> {
    let stages = record.stages.iter();
    let mut kernels = stages
        .filter(|stage| CORRECT.contains(&&*stage.name))
        .filter_map(|stage| stage.kernels.as_ref())
        .peekable();
    let has = |names: &[String]| names.iter().any(|other| other == name);
    let (mut passed, mut failed) = (false, false);
    for kernels in &mut kernels {
        passed |= has(&kernels.passed);
        failed |= has(&kernels.failed);
    }
    (passed || failed).then_some(!failed)
}

/// Clean when all three have ended well and it ran under each; not when one that ran it has failed, which
/// does not say for which kernel.
fn is_clean(name: &str, record: &Record) -> Option<bool> {
    let stage = |tool: &&str| record.stages.iter().find(|stage| stage.name == *tool);
    let launched = |stage: &Stage| {
        let kernels = stage.kernels.as_ref();
        kernels.is_some_and(|kernels| {
            let all = [&kernels.passed, &kernels.failed].into_iter().flatten();
            all.into_iter().any(|other| other == name)
        })
    };
    let stages: Vec<&Stage> = CLEAN
        .iter()
        .filter_map(stage)
        .filter(|s| launched(s))
        .collect();
    if stages.iter().any(|stage| stage.status == Status::Failed) {
        return Some(false);
    }
    let passed = stages.iter().filter(|stage| stage.status == Status::Passed);
    (passed.count() == CLEAN.len()).then_some(true)
}

/// Where it took longest, and how long.
fn longest<'a>(name: &str, record: &'a Record) -> Option<(f64, &'a Row)> {
    let of_row = |row: &'a Row| {
        let kernel = row.kernels.iter().find(|kernel| kernel.kernel == name)?;
        Some((kernel.seconds?, row))
    };
    let times = record.rows.iter().filter_map(of_row);
    times.max_by(|a, b| a.0.total_cmp(&b.0))
}

#[cfg(test)]
pub mod tests {
    use super::super::readme::tests::record;
    use super::super::schema::{KernelTime, Kernels};
    use super::*;

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
        // What no card has run stands above the rest.
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
