-- The time selection of a REAPER project, filled by a running `auffusion studio`.
-- With an item selected: that part of it anew, the rest as it was. Without: a sound from words, of
-- the selection's length. The result comes onto a new track; nothing else is changed.
-- REAPER has no HTTP of its own: curl asks, which comes with Windows, macOS and Linux.

local SERVER = "http://127.0.0.1:8420"
local TIMEOUT_MS = 3600 * 1000
local MIN_S = 0.1

local function json_text(text)
  local escaped = text:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end)
  return '"' .. escaped .. '"'
end

-- A text of a flat JSON object.
local function json_field(json, name)
  return json:match('"' .. name .. '"%s*:%s*"(.-[^\\])"')
end

local function write(path, content)
  local file = assert(io.open(path, "wb"))
  file:write(content)
  file:close()
end

local function read(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local content = file:read("a")
  file:close()
  return content
end

-- curl reads its options from a file, so that no shell sees words or paths.
local function config_line(name, value)
  return name .. ' = "' .. value:gsub('[\\"]', "\\%0") .. '"\n'
end

-- POST the file at `body` to the studio; its answer goes to the file at `answer`.
-- Returns nil, or why it failed.
local function post(path, body, kind, accept, answer)
  local config = answer .. ".curl"
  local options = config_line("url", SERVER .. path) .. config_line("data-binary", "@" .. body)
    .. config_line("header", "Content-Type: " .. kind) .. config_line("header", "Accept: " .. accept)
    .. config_line("output", answer) .. config_line("write-out", "%{http_code}") .. "silent\n"
  local token = os.getenv("AUFFUSION_TOKEN")
  if token then options = options .. config_line("header", "Authorization: Bearer " .. token) end
  write(config, options)
  local told = reaper.ExecProcess('curl -K "' .. config .. '"', TIMEOUT_MS) or ""
  os.remove(config)
  local code = told:match("(%d%d%d)%s*$")
  if not code or code == "000" then
    return "No studio answers at " .. SERVER .. ": start `auffusion studio`."
  end
  if tonumber(code) < 300 then return nil end
  local why = json_field(read(answer), "error") or ("status " .. code)
  os.remove(answer)
  return "The studio says: " .. why
end

local function make(task, request, answer)
  local body = answer .. ".json"
  write(body, request)
  local failure = post("/v1/" .. task, body, "application/json", "audio/wav", answer)
  os.remove(body)
  return failure
end

-- A sound from words.
local function generate(words, duration_s, answer)
  local request = string.format('{"prompt": %s, "duration_s": %.3f}', json_text(words), duration_s)
  return make("generate", request, answer)
end

-- The recording at `source` with the part from `start_s` to `end_s` anew.
local function inpaint(source, words, start_s, end_s, answer)
  local failure = post("/v1/sounds?name=reaper" .. source:match("%.%w+$"), source,
    "application/octet-stream", "application/json", answer)
  if failure then return failure end
  local id = json_field(read(answer), "id")
  local request = string.format('{"source": %s, "prompt": %s, "masks": ["%.3f-%.3fs"]}',
    json_text(id), json_text(words), start_s, end_s)
  return make("inpaint", request, answer)
end

-- The file of an item, and the time in it that is at `time` in the project.
local function source_of(item)
  local take = reaper.GetActiveTake(item)
  if not take or reaper.TakeIsMIDI(take) then return nil end
  local file = reaper.GetMediaSourceFileName(reaper.GetMediaItemTake_Source(take), "")
  local offset_s = reaper.GetMediaItemTakeInfo_Value(take, "D_STARTOFFS")
  local rate = reaper.GetMediaItemTakeInfo_Value(take, "D_PLAYRATE")
  local position_s = reaper.GetMediaItemInfo_Value(item, "D_POSITION")
  return file, function(time) return math.max(offset_s + (time - position_s) * rate, 0) end, offset_s, rate
end

-- Put the file onto a new track, at `position_s`, as it is or as the item at hand plays it.
local function insert(file, position_s, length_s, offset_s, rate)
  reaper.Undo_BeginBlock()
  local n_tracks = reaper.CountTracks(0)
  reaper.InsertTrackAtIndex(n_tracks, true)
  local track = reaper.GetTrack(0, n_tracks)
  local item = reaper.AddMediaItemToTrack(track)
  local take = reaper.AddTakeToMediaItem(item)
  reaper.SetMediaItemTake_Source(take, reaper.PCM_Source_CreateFromFile(file))
  reaper.SetMediaItemTakeInfo_Value(take, "D_STARTOFFS", offset_s)
  reaper.SetMediaItemTakeInfo_Value(take, "D_PLAYRATE", rate)
  reaper.SetMediaItemInfo_Value(item, "D_POSITION", position_s)
  reaper.SetMediaItemInfo_Value(item, "D_LENGTH", length_s)
  reaper.UpdateArrange()
  reaper.Undo_EndBlock("auffusion", -1)
end

local function main()
  local start_s, end_s = reaper.GetSet_LoopTimeRange(false, false, 0, 0, false)
  if end_s - start_s < MIN_S then
    return "Select a time first."
  end
  local ok, words = reaper.GetUserInputs("auffusion", 1, "What should be heard:,extrawidth=240", "")
  if not ok then return nil end
  local file = string.format("%s/auffusion-%s.wav", reaper.GetProjectPath(), os.date("%Y%m%d-%H%M%S"))
  local item = reaper.GetSelectedMediaItem(0, 0)
  if not item then
    local failure = generate(words, end_s - start_s, file)
    if not failure then insert(file, start_s, end_s - start_s, 0, 1) end
    return failure
  end
  local source, time_in, offset_s, rate = source_of(item)
  if not source then return "The selected item is no recording." end
  local failure = inpaint(source, words, time_in(start_s), time_in(end_s), file)
  if failure then return failure end
  insert(file, reaper.GetMediaItemInfo_Value(item, "D_POSITION"),
    reaper.GetMediaItemInfo_Value(item, "D_LENGTH"), offset_s, rate)
end

local failure = main()
if failure then reaper.ShowMessageBox(failure, "auffusion", 0) end
