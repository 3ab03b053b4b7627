//! `report.html`: the whole run on one page, with its pictures inside.

use std::fmt::Write;

use base64::prelude::{BASE64_STANDARD, Engine};

use crate::train::evaluate::{CollapseChecks, Evaluation, Verdict};
use crate::train::metrics::EvaluationRecord;

/// What the page shows.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The method and the data source.
    pub title: &'a str,
    /// A sentence about the images and the settings.
    pub summary: &'a str,
    /// What was skipped or is odd about the files, each a sentence.
    pub notes: &'a [String],
    /// The evaluation.
    pub result: &'a EvaluationRecord,
    /// `config.toml`.
    pub config: &'a str,
    /// `loss.png`.
    pub loss: &'a [u8],
    /// `embedding.png`.
    pub embedding: &'a [u8],
    /// Training images with two views each, PNG.
    pub views: &'a [u8],
}

const STYLE: &str = "
:root { --ink: #111827; --soft: #6b7280; --line: #e5e7eb; --accent: #2563eb; --good: #059669; --bad: #dc2626; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f4f6; color: var(--ink); font: 16px/1.55 system-ui, 'Segoe UI', Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; margin: 0; } h2 { font-size: 19px; margin: 0 0 14px; }
p { margin: 6px 0; } .soft { color: var(--soft); }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 22px 26px; margin-top: 20px; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 16px; margin-top: 24px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 16px 20px; }
.card b { display: block; font-size: 30px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; } td, th { padding: 7px 10px 7px 0; text-align: left; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; } th { font-weight: 600; color: var(--soft); font-size: 14px; }
td.number { text-align: right; font-variant-numeric: tabular-nums; width: 90px; white-space: nowrap; }
td.bar { width: 45%; } .bar i { display: block; height: 14px; border-radius: 7px; background: #9ca3af; } .bar i.ours { background: var(--accent); }
img { width: 100%; height: auto; display: block; } img.views { image-rendering: pixelated; }
.config { columns: 2; column-gap: 40px; } pre { margin: 0 0 14px; overflow: auto; break-inside: avoid; font: 13.5px/1.5 ui-monospace, 'DejaVu Sans Mono', Menlo, monospace; }
@media (max-width: 760px) { .cards { grid-template-columns: repeat(2, 1fr); } .config { columns: 1; } }
";

/// The page's text.
pub fn page(page: &Page<'_>) -> String {
    let mut html = String::new();
    let evaluation = &page.result.evaluation;
    let title = escape(page.title);
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} · infonce</title><style>{STYLE}</style></head>\n<body><main>\n\
         <h1>{title}</h1>\n<p class=\"soft\">{}</p>\n",
        escape(page.summary),
    );
    for note in page.notes {
        let _ = writeln!(html, "<p class=\"soft\">{}.</p>", escape(note));
    }
    html.push_str(&cards(evaluation));
    html.push_str(&accuracies(page.result));
    html.push_str(&collapse(&evaluation.collapse));
    let colours = match evaluation.accuracies {
        Some(_) => "Colours are labels, which training never saw.",
        None => "There are no labels to colour them by.",
    };
    let sections = [
        (
            "Embeddings of held-out images",
            &format!(
                "t-SNE of encoder features; images whose features point the same way lie together. \
                 {colours}"
            ) as &str,
            page.embedding,
            "embedding",
        ),
        (
            "Loss",
            "Every step, and its course smoothed. Below the dashed line the encoder tells images \
             apart.",
            page.loss,
            "loss",
        ),
        (
            "What the encoder trained on",
            "Each column: a training image, and two of its random views. The loss pulls the two \
             together and pushes all others away.",
            page.views,
            "views",
        ),
    ];
    for (heading, text, picture, class) in sections {
        let _ = writeln!(
            html,
            "<section><h2>{heading}</h2><p class=\"soft\">{text}</p>\
             <img class=\"{class}\" alt=\"{heading}\" src=\"data:image/png;base64,{}\"></section>",
            BASE64_STANDARD.encode(picture),
        );
    }
    html.push_str(
        "<section><h2>Configuration</h2><p class=\"soft\">Every value in force. \
         <code>--config config.toml</code> repeats the run.</p><div class=\"config\">",
    );
    for table in page.config.trim().split("\n\n") {
        let _ = write!(html, "<pre>{}</pre>", escape(table));
    }
    html.push_str("</div></section>\n</main></body></html>\n");
    html
}

/// The four numbers at the top.
fn cards(evaluation: &Evaluation) -> String {
    let checks = &evaluation.collapse;
    let (word, class) = match checks.verdict {
        Verdict::Spread => ("none", "good"),
        Verdict::Narrow => ("partial", "bad"),
        Verdict::Dimensional => ("dimensional", "bad"),
        Verdict::Collapsed => ("complete", "bad"),
        Verdict::NotFinite => ("not finite", "bad"),
        Verdict::Unknown => ("unknown", "bad"),
    };
    let verdict = (format!("<b class=\"{class}\">{word}"), "collapse");
    let cards = match &evaluation.accuracies {
        Some(found) => {
            let improvement = found.improvement();
            let better = if improvement > 0.0 { "good" } else { "bad" };
            let percent = |share: f64| format!("<b>{:.1}%", 100.0 * share);
            [
                (percent(found.trained_knn), "held-out kNN"),
                (percent(found.linear_probe), "linear probe"),
                (
                    format!("<b class=\"{better}\">{improvement:+.1}"),
                    "points over the better baseline",
                ),
                verdict,
            ]
        }
        None => {
            let number = |value: f64| format!("<b>{value:.3}");
            [
                (number(checks.alignment), "alignment"),
                (number(checks.uniformity), "uniformity"),
                (number(checks.deviation), "standard deviation"),
                verdict,
            ]
        }
    };
    let cards = cards.map(|(value, name)| format!("<div class=\"card\">{value}</b>{name}</div>"));
    format!("<div class=\"cards\">{}</div>\n", cards.concat())
}

/// What the report leaves out for images without labels, and why.
pub const NO_LABELS: &str =
    "The images have no labels, so kNN, linear probe and points above the baseline are left out.";

fn accuracies(result: &EvaluationRecord) -> String {
    let evaluation = &result.evaluation;
    let times = format!(
        "Training took {}, evaluation {}.",
        duration(result.training_seconds),
        duration(result.evaluation_seconds),
    );
    let Some(found) = &evaluation.accuracies else {
        return format!(
            "<section><h2>No accuracies</h2><p>{NO_LABELS}</p><p class=\"soft\">{times}</p></section>\n",
        );
    };
    let bar = |name: &str, share: f64, class: &str| {
        let percent = 100.0 * share;
        format!(
            "<tr><td>{name}</td><td class=\"bar\"><i class=\"{class}\" style=\"width:{percent:.2}%\">\
             </i></td><td class=\"number\">{percent:.1}%</td></tr>",
        )
    };
    let knn = |features: &str, share, class| {
        bar(&format!("{features}, kNN (k = {})", found.k), share, class)
    };
    let bars = [
        bar("Trained encoder, linear probe", found.linear_probe, "ours"),
        knn("Trained encoder", found.trained_knn, "ours"),
        knn("Untrained encoder", found.untrained_knn, ""),
        knn("Raw pixels", found.pixels_knn, ""),
        bar("Always the commonest class", found.chance, ""),
    ];
    format!(
        "<section><h2>Accuracy on {} held-out images</h2><table>\
         <tr><th>features and classifier</th><th></th><th></th></tr>{}</table>\
         <p class=\"soft\">Neighbours and the linear probe come from {} training images; \
         kNN weighs neighbours by exp(cosine/0.1). Pixels are taken less the mean training image. \
         {times}</p></section>\n",
        evaluation.test_images,
        bars.concat(),
        evaluation.train_images,
    )
}

fn collapse(checks: &CollapseChecks) -> String {
    let row = |name: &str, value: f64, meaning: &str| {
        format!(
            "<tr><td>{name}</td><td class=\"number\">{value:.3}</td>\
             <td class=\"soft\">{meaning}</td></tr>",
        )
    };
    let of_rank = format!(
        "directions in which embeddings differ, weighted; at most {}",
        checks.full_rank
    );
    let rows = [
        row(
            "Alignment",
            checks.alignment,
            "mean squared distance between two views of an image; 0 is perfect, 2 is chance",
        ),
        row(
            "Uniformity",
            checks.uniformity,
            "log mean exp(−2·squared distance) of pairs of images; 0 is one point, about −4 is even",
        ),
        row(
            "Standard deviation",
            checks.deviation,
            "per coordinate, times √D; 0 is one point, 1 is even over the sphere",
        ),
        row("Effective rank", checks.effective_rank, &of_rank),
    ];
    format!(
        "<section><h2>Collapse checks</h2><p class=\"soft\">On the projection head's outputs for \
         two views of {} held-out images: {}.</p><table>{}</table></section>\n",
        checks.images,
        checks.verdict.sentence(),
        rows.concat(),
    )
}

/// Seconds in their largest units.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// The text with HTML's special characters escaped.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::testing::contains;

    fn page_of(result: &EvaluationRecord) -> String {
        page(&Page {
            title: "SimCLR on folder:<a&b>",
            summary: "4,096 images",
            notes: &["1 file <a> was left out".to_owned()],
            result,
            config: "seed = 7",
            loss: b"loss",
            embedding: b"embedding",
            views: b"views",
        })
    }

    #[test]
    fn the_page_shows_every_number_and_holds_every_picture() {
        let html = page_of(&EvaluationRecord::example());
        let numbers = [
            "62.5%", "68.8%", "20.0%", "22.5%", "10.0%", "+40.0", "k = 20",
        ];
        contains(&html, &numbers);
        contains(
            &html,
            &[
                "0.250",
                "-3.500",
                "0.900",
                "96.250",
                "at most 128",
                "3 min 20 s",
                "4.2 s",
            ],
        );
        contains(&html, &["SimCLR on folder:&lt;a&amp;b&gt;", "seed = 7"]);
        contains(&html, &["1 file &lt;a&gt; was left out."]);
        for picture in ["loss", "embedding", "views"] {
            contains(&html, &[&BASE64_STANDARD.encode(picture)]);
        }
        assert!(
            !html.contains("http"),
            "the page must need nothing beside it"
        );
    }

    #[test]
    fn without_labels_the_page_says_what_is_left_out() {
        let mut result = EvaluationRecord::example();
        result.evaluation.accuracies = None;
        result.improvement = None;
        let html = page_of(&result);
        contains(&html, &[NO_LABELS, "no labels to colour", "3 min 20 s"]);
        contains(&html, &["0.250", "-3.500", "0.900", "none"]);
        for absent in ["Accuracy", "baseline</div>", "held-out kNN", "Colours are"] {
            assert!(!html.contains(absent), "{absent} is there");
        }
    }

    #[test]
    fn durations_are_read_in_their_largest_units() {
        for (seconds, expected) in [
            (0.04, "0.0 s"),
            (9.4, "9.4 s"),
            (59.4, "59 s"),
            (61.0, "1 min 01 s"),
            (7260.0, "2 h 01 min"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
