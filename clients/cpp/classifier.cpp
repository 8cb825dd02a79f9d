#include "classifier.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace {

constexpr const char* kInput = "image";
constexpr const char* kOutput = "probabilities";

Ort::Env make_env() {
  if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
    throw std::runtime_error(std::string("libonnxruntime ") + OrtGetApiBase()->GetVersionString() +
                             " is older than the headers, which are 1." + std::to_string(ORT_API_VERSION));
  }
  return Ort::Env(ORT_LOGGING_LEVEL_ERROR, "classifier");
}

Ort::Session open_session(const Ort::Env& env, const std::string& path, int num_threads) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(num_threads);
  return Ort::Session(env, path.c_str(), options);
}

std::vector<std::string> read_class_names(const Ort::Session& session) {
  Ort::AllocatorWithDefaultOptions allocator;
  if (std::string(session.GetInputNameAllocated(0, allocator).get()) != kInput) {
    throw std::runtime_error("the model takes no whole image: it is not a pipeline.onnx");
  }
  const Ort::ModelMetadata metadata = session.GetModelMetadata();
  const Ort::AllocatedStringPtr text = metadata.LookupCustomMetadataMapAllocated("class_names", allocator);
  if (!text) throw std::runtime_error("the file carries no class names: it is not a pipeline.onnx");
  return nlohmann::json::parse(text.get()).get<std::vector<std::string>>();
}

// Fitted on validation images; a file that has it in its graph says 1, an older one nothing.
double read_temperature(const Ort::Session& session) {
  Ort::AllocatorWithDefaultOptions allocator;
  const Ort::ModelMetadata metadata = session.GetModelMetadata();
  const Ort::AllocatedStringPtr text = metadata.LookupCustomMetadataMapAllocated("temperature", allocator);
  if (!text) return 1;
  const auto temperature = nlohmann::json::parse(text.get()).get<double>();
  if (!(temperature > 0)) throw std::runtime_error("the file's temperature is no number above 0");
  return temperature;
}

// What softmax(logits / temperature) is, from softmax(logits).
void scale_probabilities(std::vector<float>& shares, double temperature) {
  if (temperature == 1) return;
  const double largest = *std::max_element(shares.begin(), shares.end());
  std::vector<double> powers(shares.size());
  std::transform(shares.begin(), shares.end(), powers.begin(),
                 [&](float share) { return std::pow(share / largest, 1 / temperature); });
  const double sum = std::accumulate(powers.begin(), powers.end(), 0.0);
  std::transform(powers.begin(), powers.end(), shares.begin(),
                 [&](double power) { return static_cast<float>(power / sum); });
}

}  // namespace

Classifier::Classifier(const std::string& pipeline_path, int num_threads)
    : env_(make_env()),
      session_(open_session(env_, pipeline_path, num_threads)),
      class_names_(read_class_names(session_)),
      temperature_(read_temperature(session_)) {}

Answer Classifier::classify(const std::uint8_t* rgb, std::int64_t height, std::int64_t width) const {
  if (height < 1 || width < 1) throw std::runtime_error("an image without pixels");
  const auto num_bytes = static_cast<std::size_t>(height * width * 3);
  const std::int64_t shape[] = {height, width, 3};
  // ONNX Runtime takes a pointer that is not const, but only reads an input.
  const Ort::Value image = Ort::Value::CreateTensor<std::uint8_t>(
      Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault), const_cast<std::uint8_t*>(rgb), num_bytes, shape,
      std::size(shape));
  const std::vector<Ort::Value> outputs = session_.Run(Ort::RunOptions{nullptr}, &kInput, &image, 1, &kOutput, 1);
  const float* shares = outputs.front().GetTensorData<float>();
  Answer answer;
  answer.probabilities.assign(shares, shares + outputs.front().GetTensorTypeAndShapeInfo().GetElementCount());
  const auto best = std::max_element(answer.probabilities.begin(), answer.probabilities.end());
  const auto place = static_cast<std::size_t>(best - answer.probabilities.begin());
  scale_probabilities(answer.probabilities, temperature_);
  answer.confidence = answer.probabilities.at(place);
  answer.label = class_names_.at(place);
  return answer;
}
