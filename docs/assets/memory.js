// The calculator of docs/guides/memory.md. The numbers are those of benchmarks/memory.py; a test compares them.
const MEMORY_MODEL = {
  "dynamic": { "number": 8.2, "target": 106, "dimension": 170000, "fixed": 13e6 },
  "dynamic, bfloat16": { "number": 7.8, "target": 48, "dimension": 149000, "fixed": 5e6 },
  "exact": { "number": 4.0, "target": 0, "dimension": 0, "fixed": 96e6 }
};

function memoryPeak(source, targets, dimensions) {
  const model = MEMORY_MODEL[source];
  return targets * (model.number * dimensions + model.target) + model.dimension * dimensions + model.fixed;
}

function memoryCalculator() {
  const find = (name) => document.getElementById("memory-" + name);
  if (!find("answer")) return;
  const show = () => {
    const [targets, dimensions] = [Number(find("targets").value), Number(find("dimensions").value)];
    const isRight = targets >= 1 && dimensions >= 1;
    const bytes = isRight ? memoryPeak(find("source").value, targets, dimensions) : 0;
    const size = bytes >= 2 ** 30 ? (bytes / 2 ** 30).toFixed(1) + " GiB" : Math.ceil(bytes / 2 ** 20) + " MiB";
    find("answer").textContent = isRight ? size + " at the peak, beside process, model and texts" : "";
  };
  for (const name of ["targets", "dimensions", "source"]) find(name).addEventListener("input", show);
  show();
}

document.addEventListener("DOMContentLoaded", memoryCalculator);
