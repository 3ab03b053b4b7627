//! Draws `loss.png` and `embedding.png`.
//!
//! Text is drawn in Ubuntu Light, embedded from a crate, because the machine may have no fonts.

use std::ops::Range;
use std::sync::Once;

use image::RgbImage;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::{Drawn, ReportError, named, png};
use crate::train::evaluate::Picture;
use crate::train::metrics::StepRecord;

/// Width and height in pixels. The page shows pictures at half of it, for dense screens.
const LOSS_SIZE: (u32, u32) = (1600, 1000);
const EMBEDDING_SIZE: (u32, u32) = (1800, 900);
/// Width of the legend beside the embeddings.
const LEGEND_WIDTH: u32 = 260;
/// Maximum number of classes in the legend.
const LEGEND_ENTRIES: usize = 20;
/// Maximum length of a class name in the legend.
const LEGEND_CHARACTERS: usize = 18;

const FONT: &str = "report";
const TEXT: RGBColor = RGBColor(55, 65, 81);
const GRID: RGBColor = RGBColor(229, 231, 235);
const AXIS: RGBColor = RGBColor(156, 163, 175);
const LOSS: RGBColor = RGBColor(37, 99, 235);
const TOP1: RGBColor = RGBColor(5, 150, 105);
const CHANCE: RGBColor = RGBColor(220, 38, 38);

/// Ten colours that most eyes distinguish; further classes get the same, lighter.
const PALETTE: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(90, 90, 90),
    RGBColor(188, 170, 20),
    RGBColor(23, 190, 207),
];

type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// Draws the loss of every step, and below it contrastive top-1, each with its smoothed curve; PNG.
///
/// # Errors
/// [`ReportError`].
pub fn loss(steps: &[StepRecord], title: &str) -> Result<Vec<u8>, ReportError> {
    let last = steps.last().map_or(1, |record| record.step).max(2) as f64;
    let losses: Vec<_> = steps.iter().map(|at| (at.step as f64, at.loss)).collect();
    let chance = steps.last().map(|record| record.chance_loss);
    let shown = losses.iter().map(|(_, loss)| *loss).chain(chance);
    let shown = shown.filter(|loss| loss.is_finite());
    let lowest = shown.clone().fold(0.0, f64::min);
    let highest = shown.fold(0.0, f64::max).max(1e-3);
    let losses = Curve {
        caption: title,
        unit: "loss (nats)",
        values: losses,
        range: lowest * 1.08..highest * 1.08,
        last,
        colour: LOSS,
        chance,
    };
    let measured = |at: &StepRecord| Some((at.step as f64, 100.0 * at.top1?));
    let top1: Vec<_> = steps.iter().filter_map(measured).collect();
    let highest = top1.iter().map(|(_, share)| *share).fold(0.0, f64::max);
    let top1 = Curve {
        caption: "Contrastive top-1: anchors closer to their positive than to every negative",
        unit: "top-1 (%)",
        values: top1,
        range: 0.0..(1.15 * highest).clamp(10.0, 100.0),
        last,
        colour: TOP1,
        chance: None,
    };
    let drawn = draw(LOSS_SIZE, |canvas| {
        let (upper, lower) = canvas.split_vertically(LOSS_SIZE.1 * 11 / 20);
        losses.draw(&upper)?;
        top1.draw(&lower)
    });
    named("the loss", drawn)
}

/// One quantity over steps.
struct Curve<'a> {
    caption: &'a str,
    unit: &'a str,
    /// Steps and values.
    values: Vec<(f64, f64)>,
    range: Range<f64>,
    /// The run's last step.
    last: f64,
    colour: RGBColor,
    /// The loss by chance, drawn as a dashed line.
    chance: Option<f64>,
}

impl Curve<'_> {
    fn draw(&self, canvas: &Canvas<'_>) -> Drawn<()> {
        let last = self.last;
        let mut chart = ChartBuilder::on(canvas)
            .caption(self.caption, text(34))
            .margin(24)
            .x_label_area_size(64)
            .y_label_area_size(96)
            .build_cartesian_2d(1.0..last, self.range.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(AXIS)
            .label_style(text(26))
            .axis_desc_style(text(28))
            .x_desc("step")
            .y_desc(self.unit)
            .x_labels(10)
            .y_labels(6)
            .x_label_formatter(&|step| format!("{step:.0}"))
            .y_label_formatter(&tick)
            .draw()?;
        for (values, colour, width) in [
            (&self.values, self.colour.mix(0.3), 2),
            (&smoothed(&self.values), self.colour.to_rgba(), 4),
        ] {
            let finite = values.iter().copied().filter(|(_, y)| y.is_finite());
            let style = ShapeStyle::from(colour).stroke_width(width);
            chart.draw_series(LineSeries::new(finite, style))?;
        }
        if let Some(chance) = self.chance {
            let style = ShapeStyle::from(CHANCE).stroke_width(2);
            let ends = [(1.0, chance), (last, chance)];
            chart.draw_series(DashedLineSeries::new(ends, 12, 8, style))?;
            let (x, y) = chart.backend_coord(&(last, chance));
            let right = Pos::new(HPos::Right, VPos::Top);
            let label = format!("loss by chance {chance:.2}");
            let font = text(26).color(&CHANCE).pos(right);
            let canvas = canvas.strip_coord_spec();
            canvas.draw(&Text::new(label, (x - 8, y + 10), font))?;
        }
        Ok(())
    }
}

/// A tick's value without the noise of its last bits.
fn tick(value: &f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}

/// The curve's means over a centred window of a fortieth of its length, narrower towards its ends.
fn smoothed(values: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = values.len() / 80;
    (0..values.len())
        .map(|i| {
            let reach = half.min(i).min(values.len() - 1 - i);
            let window = &values[i - reach..=i + reach];
            let sum: f64 = window.iter().map(|(_, value)| value).sum();
            (values[i].0, sum / window.len() as f64)
        })
        .collect()
}

/// Draws held-out images before and after training, a point each, in their classes' colours where
/// there are labels; PNG.
///
/// # Errors
/// [`ReportError`].
pub fn embedding(
    untrained: &Picture,
    trained: &Picture,
    class_names: &[String],
) -> Result<Vec<u8>, ReportError> {
    let drawn = draw(EMBEDDING_SIZE, |canvas| {
        let panel = (EMBEDDING_SIZE.0 - LEGEND_WIDTH) / 2;
        let (left, rest) = canvas.split_horizontally(panel);
        let (right, beside) = rest.split_horizontally(panel);
        scatter(&left, untrained, "Before training")?;
        scatter(&right, trained, "After training")?;
        legend(&beside, class_names)
    });
    named("the embeddings", drawn)
}

fn scatter(canvas: &Canvas<'_>, picture: &Picture, caption: &str) -> Drawn<()> {
    let mut chart = ChartBuilder::on(canvas)
        .caption(caption, text(34))
        .margin(20)
        .x_label_area_size(64)
        .y_label_area_size(84)
        .build_cartesian_2d(extent(picture, 0), extent(picture, 1))?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS)
        .label_style(text(24))
        .axis_desc_style(text(26))
        .x_desc("t-SNE 1")
        .y_desc("t-SNE 2")
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .draw()?;
    // Without labels all points have the first colour.
    let label = |index: usize| picture.labels.as_ref().map_or(0, |labels| labels[index]);
    let points = picture.points.iter().enumerate();
    let finite = points.filter(|(_, point)| point.iter().all(|place| place.is_finite()));
    chart.draw_series(finite.map(|(index, point)| {
        Circle::new(
            (point[0], point[1]),
            6,
            colour(label(index) as usize).mix(0.75).filled(),
        )
    }))?;
    Ok(())
}

/// The range of one axis with a margin, never empty.
fn extent(picture: &Picture, axis: usize) -> Range<f64> {
    let places = picture.points.iter().map(|point| point[axis]);
    let finite = places.filter(|place| place.is_finite());
    let low = finite.clone().fold(0.0, f64::min);
    let high = finite.fold(0.0, f64::max);
    let margin = (0.05 * (high - low)).max(1e-9);
    low - margin..high + margin
}

fn legend(canvas: &Canvas<'_>, class_names: &[String]) -> Drawn<()> {
    let height = |line: usize| 80 + 38 * line as i32;
    let label = |line, words| canvas.draw(&Text::new(words, (42, height(line) - 10), text(26)));
    for (class, name) in class_names.iter().take(LEGEND_ENTRIES).enumerate() {
        canvas.draw(&Circle::new((20, height(class)), 9, colour(class).filled()))?;
        let mut shown: String = name.chars().take(LEGEND_CHARACTERS).collect();
        if shown.len() < name.len() {
            shown.push('…');
        }
        label(class, shown)?;
    }
    if class_names.len() > LEGEND_ENTRIES {
        let more = class_names.len() - LEGEND_ENTRIES;
        label(LEGEND_ENTRIES, format!("and {more} more"))?;
    }
    Ok(())
}

fn text(size: i32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&TEXT)
}

fn colour(class: usize) -> RGBColor {
    let RGBColor(red, green, blue) = PALETTE[class % PALETTE.len()];
    if (class / PALETTE.len()).is_multiple_of(2) {
        return RGBColor(red, green, blue);
    }
    let lighter = |value: u8| value / 2 + 127;
    RGBColor(lighter(red), lighter(green), lighter(blue))
}

/// Draws on a white canvas and encodes it.
fn draw(
    (width, height): (u32, u32),
    content: impl FnOnce(&Canvas<'_>) -> Drawn<()>,
) -> Drawn<Vec<u8>> {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // Without the font the drawing below fails with an error that names it.
        let _ = register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
    let mut image = RgbImage::new(width, height);
    {
        let canvas = BitMapBackend::with_buffer(&mut image, (width, height)).into_drawing_area();
        canvas.fill(&WHITE)?;
        content(&canvas)?;
        canvas.present()?;
    }
    png(&image)
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    fn steps(losses: &[f64]) -> Vec<StepRecord> {
        let record = |(index, &loss): (usize, &f64)| StepRecord {
            step: index as u64 + 1,
            epoch: 1,
            loss,
            top1: (index % 8 == 0).then_some(0.5),
            chance_loss: 5.5,
            learning_rate: 0.1,
            images_per_second: 1.0,
        };
        losses.iter().enumerate().map(record).collect()
    }

    /// How many pixels of a PNG are nearly of this colour.
    fn pixels_of(encoded: &[u8], RGBColor(red, green, blue): RGBColor) -> usize {
        let decoded = image::load_from_memory(encoded).unwrap().to_rgb8();
        let near = |pixel: &&image::Rgb<u8>| {
            let wanted = [red, green, blue];
            pixel.0.iter().zip(wanted).all(|(&a, b)| a.abs_diff(b) < 12)
        };
        decoded.pixels().filter(near).count()
    }

    #[test]
    fn the_loss_is_drawn_with_its_chance_level_and_its_text() {
        let encoded = loss(&steps(&[5.0, 4.0, 3.0, 2.0]), "SimCLR on demo").unwrap();
        assert!(pixels_of(&encoded, LOSS) > 1000);
        assert!(pixels_of(&encoded, CHANCE) > 500);
        assert!(pixels_of(&encoded, TEXT) > 500);
    }

    #[test]
    fn no_steps_one_step_and_values_that_are_not_finite_are_drawn_too() {
        for losses in [
            &[] as &[f64],
            &[1.0],
            &[f64::NAN, 1.0, f64::INFINITY],
            &[0.0, 0.0],
            &[-1.0, -2.0],
        ] {
            assert!(loss(&steps(losses), "SimCLR").is_ok());
        }
    }

    #[test]
    fn smoothing_keeps_a_straight_line_and_both_ends() {
        let line: Vec<_> = (0..400).map(f64::from).map(|x| (x, 3.0 * x)).collect();
        for ((x, smooth), y) in smoothed(&line).into_iter().zip(line) {
            assert_eq!(x, y.0);
            assert_abs_diff_eq!(smooth, y.1, epsilon = 1e-9);
        }
    }

    fn picture(factor: f64, labels: Option<Vec<u32>>) -> Picture {
        let point = |i| [factor * f64::from(i), f64::from(i % 7)];
        let points = (0..30).map(point).collect();
        Picture { points, labels }
    }

    #[test]
    fn embeddings_are_drawn_in_the_colours_of_their_classes() {
        let classes = Some((0..30).collect());
        let names: Vec<String> = (0..30)
            .map(|class| format!("class number {class:030}"))
            .collect();
        let (small, large) = (picture(1e-3, classes.clone()), picture(40.0, classes));
        let encoded = embedding(&small, &large, &names).unwrap();
        assert!(pixels_of(&encoded, colour(3)) > 100);
    }

    #[test]
    fn images_without_labels_are_drawn_in_one_colour() {
        let picture = picture(1.0, None);
        let encoded = embedding(&picture, &picture, &[]).unwrap();
        // Points are drawn three quarters opaque on white.
        let on_white = |RGBColor(red, green, blue)| {
            let mixed = |value: u8| (3 * u16::from(value) + 255) / 4;
            RGBColor(mixed(red) as u8, mixed(green) as u8, mixed(blue) as u8)
        };
        assert!(pixels_of(&encoded, on_white(colour(0))) > 1000);
        assert_eq!(pixels_of(&encoded, on_white(colour(3))), 0);
    }

    #[test]
    fn points_that_are_not_finite_are_left_out() {
        let broken = Picture {
            points: vec![[f64::NAN; 2], [0.0; 2]],
            labels: None,
        };
        assert!(embedding(&broken, &broken, &[]).is_ok());
    }
}
