// Runs pipeline.onnx, which holds the preprocessing, the network and the class names: a whole image in,
// probabilities out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

struct Answer {
  std::string label;
  float confidence = 0;              // the label's probability
  std::vector<float> probabilities;  // in the order of the class names; calibrated where the file can say how
};

class Classifier {
 public:
  // Throws std::runtime_error for a file that ONNX Runtime cannot load or that carries no class names.
  // num_threads: 0 takes all cores.
  explicit Classifier(const std::string& pipeline_path, int num_threads = 0);

  const std::vector<std::string>& class_names() const { return class_names_; }

  // Answers one upright image of any size: height * width * 3 bytes, red, green, blue, row by row.
  // Throws std::runtime_error when the model cannot run it. May be called from several threads at once.
  Answer classify(const std::uint8_t* rgb, std::int64_t height, std::int64_t width) const;

 private:
  Ort::Env env_;
  mutable Ort::Session session_;
  std::vector<std::string> class_names_;
  double temperature_;
};
