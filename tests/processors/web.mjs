// Logits of all files of a folder under onnxruntime-web (WebAssembly): web.mjs FOLDER IMAGES SIDE OUT
import * as ort from "onnxruntime-web";
import fs from "node:fs";

const [folder, images, side, out] = process.argv.slice(2);
const pixels = new Float32Array(fs.readFileSync(images).buffer);
const shape = [pixels.length / side / side, 1, Number(side), Number(side)];
const found = {};
ort.env.wasm.numThreads = 1;
for (const name of fs.readdirSync(folder).filter((name) => name.endsWith(".onnx"))) {
  for (const graphOptimizationLevel of ["all", "disabled"]) {
    const options = { executionProviders: ["wasm"], graphOptimizationLevel };
    const session = await ort.InferenceSession.create(`${folder}/${name}`, options);
    const { logits } = await session.run({ image: new ort.Tensor("float32", pixels, shape) });
    found[`${name.slice(0, -5)}|${graphOptimizationLevel}`] = Array.from(logits.data);
  }
}
fs.writeFileSync(out, JSON.stringify(found));
