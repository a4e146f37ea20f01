// What one text got: a plain value that cards, tables and files are drawn from.

// {labels: {task: [label]}, probabilities: {task: Float64Array}, truncated, error}, from one of the service's
// predictions. Probabilities lie in the order of the task's labels: a long CSV keeps numbers, not names.
export function toOutcome(prediction, tasks) {
  if (prediction.error)
    return { labels: {}, probabilities: {}, truncated: false, error: prediction.error.message };
  const labels = {};
  const probabilities = {};
  for (const task of tasks) {
    labels[task.name] = [prediction.labels[task.name]].flat();
    probabilities[task.name] = Float64Array.from(
      task.labels,
      (label) => prediction.probabilities[task.name][label],
    );
  }
  return { labels, probabilities, truncated: prediction.truncated, error: null };
}

// A row whose cell was empty: it is not sent, and keeps its place.
export const emptyOutcome = () => ({ labels: {}, probabilities: {}, truncated: false, error: "there is no text" });

// The labels that apply; `threshold` (of a multi-label task) replaces the service's own decision.
export function decide(task, outcome, threshold) {
  if (threshold === null || task.kind !== "multi_label") return outcome.labels[task.name];
  return task.labels.filter((_, place) => outcome.probabilities[task.name][place] >= threshold);
}

// [{label, probability, threshold}] from the most probable down; `threshold` is null where none is known.
export function ranked(task, outcome, threshold) {
  const limit = (label) => (task.kind === "multi_label" ? (threshold ?? task.thresholds?.[label] ?? null) : null);
  return task.labels
    .map((label, place) => ({
      label,
      probability: outcome.probabilities[task.name][place],
      threshold: limit(label),
    }))
    .sort((one, other) => other.probability - one.probability);
}
